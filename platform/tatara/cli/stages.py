"""``tatara <stage>``: one subcommand per stage, its options made from its configuration class."""

import inspect
import json
import os
from collections.abc import Mapping
from typing import Any

import click
import yaml
from pydantic import Field

from tatara import config, interrupts
from tatara.config import Config
from tatara.errors import ConfigError
from tatara.recipe.stages import STAGES, find_stage
from tatara.stage import Job, Stage, execute

STANDALONE = "standalone"
"""Name of an artifact that was given none."""
_FIELD = "field:"


class JobFile(Config):
    """What ``--config FILE`` holds."""

    name: str | None = None
    """Name of the artifact to make."""
    root: str | None = None
    """Artifact root, a path or URL."""
    version: int | None = None
    """Version to write; by default the next free one."""
    inputs: dict[str, str] = Field({})
    """Input name to an artifact (``kind/name@version`` or its directory)."""
    config: dict[str, Any] = Field({})
    """The stage's configuration."""


def names() -> list[str]:
    """The stages that have a subcommand."""
    return list(STAGES)


def command(name: str) -> click.Command | None:
    """A stage's subcommand; None when there is no such stage."""
    if name not in STAGES:
        return None
    if name == "serve":
        from tatara.cli.serving import serve_command

        return serve_command()
    if name == "curate":
        from tatara.cli.curating import curate_command

        return curate_command()
    if name == "scaling":
        from tatara.cli.scaling import scaling_command

        return scaling_command()
    stage = find_stage(name)

    def run(**options: Any) -> None:
        run_stage(job_from(stage, options), options["address"])

    return click.Command(name, params=stage_options(stage), callback=run, help=help_text(stage))


def help_text(stage: Stage) -> str:
    """The configuration class's docstring and what the stage takes and makes."""
    return f"{inspect.getdoc(stage.config) or ''}\n\nTakes: {stage.takes() or 'raw files'}. Makes: {stage.kind}."


def stage_options(stage: Stage) -> list[click.Parameter]:
    """The options of every stage, then those of its configuration."""
    return [
        click.Option(["--config", "file"], metavar="FILE", help="Job file (YAML): name, root, inputs, config."),
        click.Option(["--job", "literals"], metavar="JSON", hidden=True, help="The same, inline."),
        click.Option(["--name"], help="Name of the artifact to make.  [default: standalone]"),
        click.Option(["--root"], help="Artifact root, a path or URL.  [default: .tatara]"),
        click.Option(["--version"], type=click.IntRange(1), help="Version to write.  [default: the next free one]"),
        click.Option(["--input", "inputs"], metavar="NAME=ARTIFACT", multiple=True, help="An input; may be repeated."),
        click.Option(["--address"], help="Ray cluster to run on.  [default: $RAY_ADDRESS, else a private local one]"),
        *field_options(stage.config),
    ]


def field_options(model: type[Config]) -> list[click.Parameter]:
    """An option ``--dotted.key VALUE`` for every field of a configuration."""
    options: list[click.Parameter] = []
    more = {key for key, _ in model.more_fields()}
    for key, field in config.leaf_fields(model):
        default = "" if field.is_required() else f"  [default: {_shown(field.get_default(call_default_factory=True))}]"
        spellings = [f"--{key}", *([f"--{key.replace('_', '-')}"] if "_" in key else [])]
        if short := config.short_name(field):
            spellings.append(f"--{short}")
        options.append(
            click.Option(
                [*spellings, f"{_FIELD}{key}".replace(".", "__").replace(":", "_")],
                metavar=config.type_name(field.annotation).upper(),
                help=" ".join((field.description or "").split()) + default,
                hidden=key in more,
            )
        )
    return options


def _shown(value: Any) -> str:
    """A default as a user would write it; of configurations in a list, what they do not leave out."""
    if isinstance(value, tuple) and any(isinstance(item, Config) for item in value):
        value = [item.model_dump(exclude_defaults=True) for item in value]
    return str(value)


def overrides_from(model: type[Config], options: Mapping[str, Any]) -> dict[str, str]:
    """The fields that were given on the command line, by dotted key."""
    given = {}
    for key, _ in config.leaf_fields(model):
        value = options.get(f"{_FIELD}{key}".replace(".", "__").replace(":", "_"))
        if value is not None:
            given[key] = value
    return given


def job_from(stage: Stage, options: Mapping[str, Any]) -> Job:
    """Put a job together from its file and the command line.

    Raises:
        ConfigError: A key, value or input is wrong.
    """
    where, values = "", {}
    if options["file"]:
        where, values = options["file"], config.read_yaml(options["file"])
    elif options["literals"]:
        where, values = "--job", json.loads(options["literals"])
    page = config.load(JobFile, values, where=where)
    inputs = dict(page.inputs)
    for item in options["inputs"]:
        name, separator, target = item.partition("=")
        if not separator:
            raise ConfigError(f"--input {item}: write NAME=ARTIFACT, such as --input model=model/quickstart@1")
        inputs[name] = target
    resolved = config.load(
        stage.config, page.config, overrides_from(stage.config, options), f"{where}: config" if where else ""
    )
    return Job(
        stage=stage,
        config=resolved,
        name=options["name"] or page.name or STANDALONE,
        root=options["root"] or page.root or ".tatara",
        inputs=inputs,
        version=options["version"] or page.version,
    )


def run_stage(job: Job, address: str | None) -> None:
    """Run a job in this process and leave no Ray process behind."""
    from tatara import cluster

    if parent := os.environ.pop("TATARA_PARENT", None):
        interrupts.die_with_parent(int(parent))
    with interrupts.raised() as rearm:

        def connect() -> None:
            cluster.connect(address)
            rearm()

        try:
            execute(job, connect)
        finally:
            with interrupts.ignored():
                cluster.disconnect()


def dump_yaml(values: Mapping[str, Any]) -> str:
    """Literals as YAML for people."""
    return yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True).rstrip()
