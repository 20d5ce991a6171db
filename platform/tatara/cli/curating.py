"""``tatara curate`` with what it can do besides running, and ``tatara steps``, which says what steps there are."""

import inspect
from typing import Any

import click

from tatara import config as configs
from tatara.artifact import Artifact
from tatara.cli import stages
from tatara.data.pipeline.config import DEFAULT_STEPS, CurateConfig, step_config
from tatara.data.steps import STEPS
from tatara.recipe.stages import find_stage
from tatara.stage import Job, plan


def curate_command() -> click.Command:
    """The subcommand."""
    stage = find_stage("curate")

    def run(**options: Any) -> None:
        job = stages.job_from(stage, options)
        if options["plan"]:
            show_plan(job)
        elif options["explain"] is not None:
            explain(job, options["explain"])
        else:
            stages.run_stage(job, options["address"])

    own = [
        click.Option(["--plan"], is_flag=True, help="Print the passes and steps that would be done, and stop."),
        click.Option(["--explain"], metavar="ID", help="Take one document through the steps and print each decision."),
    ]
    about = (
        stages.help_text(stage)
        + "\n\nA step's parameters are set by --pipeline.NAME.PARAMETER VALUE; `tatara steps NAME` lists them."
    )
    return click.Command("curate", params=[*own, *stages.stage_options(stage)], callback=run, help=about)


def show_plan(job: Job) -> None:
    """Print what a job would do."""
    from tatara.data.pipeline.planning import describe, plan_segments, plan_steps

    assert isinstance(job.config, CurateConfig)
    click.echo(describe(plan_segments(plan_steps(job.config.pipeline))))


def explain(job: Job, identifier: str) -> None:
    """Print what each step makes of one document."""
    from tatara.data.pipeline.explain import explain as lines

    assert isinstance(job.config, CurateConfig)
    existing: Artifact | None = plan(job, {}).existing
    for line in lines(job.config, identifier, existing):
        click.echo(line)


@click.command()
@click.argument("name", required=False)
def steps(name: str | None) -> None:
    """List the steps of curation, or the parameters of the one called NAME."""
    if name is None:
        width = max(map(len, STEPS))
        for step in STEPS:
            about = (inspect.getdoc(step_config(step)) or "").split("\n")[0]
            click.echo(f"{step:<{width}}  {about}{'  [default]' if step in DEFAULT_STEPS else ''}")
        return
    found = step_config(name)
    click.echo(f"{name}: {inspect.getdoc(found)}\n")
    for key, field in configs.leaf_fields(found):
        default = "required" if field.is_required() else repr(field.get_default(call_default_factory=True))
        click.echo(f"  {key} ({configs.type_name(field.annotation)}) = {default}")
        click.echo(f"      {' '.join((field.description or '').split())}")
