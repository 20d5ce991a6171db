"""``tatara run``: a whole recipe."""

from pathlib import Path
from typing import Any

import click

from tatara.errors import ConfigError


# Which other options are right depends on the recipe.
@click.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
@click.argument("recipe")
@click.option("--only", metavar="STAGE", help="Run this stage alone.")
@click.option("--from", "start", metavar="STAGE", help="Run this stage and all that depends on it.")
@click.option("--dry-run", is_flag=True, help="Show what would run and why; run nothing.")
@click.option("--root", help="Artifact root, a path or URL, instead of the recipe's.")
@click.option("--name", help="Name of the run and its artifacts, instead of the recipe's.")
@click.option("--address", metavar="http://HOST:8265", help="Submit each stage to this cluster through its Jobs API.")
@click.pass_context
def run(
    context: click.Context,
    recipe: str,
    only: str | None,
    start: str | None,
    dry_run: bool,
    root: str | None,
    name: str | None,
    address: str | None,
) -> None:
    """Run what is missing of RECIPE.

    Any key of a stage's configuration can be given as --STAGE.KEY VALUE, or as --KEY VALUE where one stage alone has
    it: --corpus my.jsonl --pretrain.layout.tp 2 --serve.port 9000
    """
    from tatara.recipe.definition import load_recipe
    from tatara.recipe.execution import run_recipe
    from tatara.recipe.launch import LocalLauncher, RemoteLauncher
    from tatara.recipe.planning import plan_recipe, select

    loaded = load_recipe(recipe, read_overrides(context.args), root=root, name=name)
    if dry_run:
        planned = plan_recipe(loaded)
        chosen = {item.item.key for item in select(loaded, planned, only, start)}
        show_plan([item for item in planned if item.item.key in chosen])
        return
    launcher = RemoteLauncher(address, Path.cwd()) if address else LocalLauncher()
    run_recipe(loaded, only=only, start=start, launcher=launcher, say=click.echo)


def read_overrides(arguments: list[str]) -> dict[str, str]:
    """``--key value`` and ``--key=value`` pairs.

    Raises:
        ConfigError: Something is not such a pair.
    """
    overrides = {}
    rest = list(arguments)
    while rest:
        option = rest.pop(0)
        if not option.startswith("--"):
            raise ConfigError(f"unexpected argument {option!r}: options are written --key value")
        key, separator, value = option[2:].partition("=")
        if not separator:
            if not rest:
                raise ConfigError(f"{option} needs a value")
            value = rest.pop(0)
        overrides[key.replace("-", "_")] = value
    return overrides


def show_plan(planned: list[Any]) -> None:
    """The plan as a table."""
    from rich.console import Console
    from rich.table import Table

    table = Table("stage", "action", "artifact", "why", box=None, pad_edge=False, header_style="bold")
    for item in planned:
        action = "skip" if item.plan.existing else "run"
        table.add_row(item.item.key, action, item.reference, item.reason)
    Console().print(table)
