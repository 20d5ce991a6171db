"""``tatara serve``: a server that stays, or, with ``--once``, the stage of a recipe that proves it answers."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from tatara.artifact import MANIFEST, Artifact, Store
from tatara.cli import stages
from tatara.errors import ArtifactError, ConfigError
from tatara.recipe.stages import find_stage
from tatara.stage import Job, Stage


def serve_command() -> click.Command:
    """The subcommand."""
    stage = find_stage("serve")

    def run(**options: Any) -> None:
        serve(stage, options)

    own = [
        click.Option(["--recipe"], metavar="FILE", help="Serve what this recipe's serve stage serves."),
        click.Option(["--model"], metavar="MODEL", help="Model to serve: model/NAME@VERSION, or a directory."),
        click.Option(["--once"], is_flag=True, help="Ask the configured prompts, write the answers, stop."),
        click.Option(["--ask"], metavar="PROMPT", help="Ask once over HTTP, print the answer, stop."),
        click.Option(["--keep"], is_flag=True, help="With --ask: go on serving."),
    ]
    params = [*own, *stages.stage_options(stage)]
    return click.Command("serve", params=params, callback=run, help=stages.help_text(stage))


def serve(stage: Stage, options: Mapping[str, Any]) -> None:
    """Serve as the options say.

    Raises:
        ConfigError: No model is named.
        ArtifactError: The model is not there.
    """
    if options["once"]:
        stages.run_stage(stages.job_from(stage, with_model(options)), options["address"])
        return
    from tatara.serve.forever import serve_forever

    job = job_of_recipe(stage, options) if options["recipe"] else stages.job_from(stage, with_model(options))
    if "model" not in job.inputs:
        raise ConfigError("which model? tatara serve --recipe FILE, or --model model/NAME@VERSION (or a directory)")
    serve_forever(
        find_model(job),
        job.config,  # type: ignore[arg-type]
        address=options["address"],
        ask=options["ask"],
        keep=options["keep"] or options["ask"] is None,
        log=click.echo,
    )


def with_model(options: Mapping[str, Any]) -> dict[str, Any]:
    """``--model M`` is short for ``--input model=M``."""
    extra = (f"model={options['model']}",) if options["model"] else ()
    return {**options, "inputs": (*options["inputs"], *extra)}


def job_of_recipe(stage: Stage, options: Mapping[str, Any]) -> Job:
    """The serve stage of a recipe, with the newest version of its model (or the one of ``--model``).

    Raises:
        ConfigError: The recipe serves nothing.
    """
    from tatara.recipe.definition import load_recipe

    recipe = load_recipe(options["recipe"], root=options["root"], name=options["name"])
    found = [item for item in recipe.stages if item.stage.name == stage.name]
    if not found:
        raise ConfigError(f"{options['recipe']} has no serve stage")
    given = {f"{found[0].key}.{key}": value for key, value in stages.overrides_from(stage.config, options).items()}
    recipe = load_recipe(options["recipe"], given, root=options["root"], name=options["name"])
    by_key = {item.key: item for item in recipe.stages}
    item = by_key[found[0].key]
    if "model" in item.upstream:
        maker = by_key[item.upstream["model"]]
        model = f"{maker.stage.kind}/{maker.name}"
    else:
        model = item.external["model"]
    return Job(stage, item.config, item.name, recipe.root, {"model": options["model"] or model})


def find_model(job: Job) -> Artifact | Path:
    """The model artifact, or a directory in the Hugging Face layout.

    Raises:
        ArtifactError: It is neither.
    """
    target = job.inputs["model"]
    directory = Path(target)
    if directory.is_dir() and not (directory / MANIFEST).exists():
        return directory
    found = Store(job.root).resolve(target)
    if found.kind != job.stage.inputs["model"]:
        raise ArtifactError(f"{found.reference} is not a model; serve takes an artifact of kind model")
    return found
