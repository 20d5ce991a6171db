"""``tatara scaling``: the stage itself, and laws from a table, from a sweep, and of mixtures."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from tatara.cli import stages
from tatara.recipe.stages import find_stage


def scaling_command() -> click.Group:
    """The subcommand, which runs the stage where no further word follows."""
    stage = find_stage("scaling")

    def run_stage(**options: Any) -> None:
        if click.get_current_context().invoked_subcommand is None:
            stages.run_stage(stages.job_from(stage, options), options["address"])

    group = click.Group(
        "scaling",
        params=stages.stage_options(stage),
        callback=run_stage,
        invoke_without_command=True,
        help=stages.help_text(stage),
    )
    group.add_command(fit)
    group.add_command(run)
    group.add_command(mix)
    return group


@click.command()
@click.argument("table", type=click.Path())
@click.option("--budget", "budgets", type=float, multiple=True, help="FLOPs to predict for; may be repeated.")
@click.option("--accuracy", type=click.Path(), help="Table of loss and accuracy: predict a benchmark too.")
@click.option("--chance", type=click.FloatRange(0, 1), default=0.0, show_default=True, help="Accuracy of a guess.")
@click.option("--bootstrap", type=click.IntRange(0), default=200, show_default=True)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--out", type=click.Path(), help="Directory for fit.json, runs.csv and the pictures.")
def fit(
    table: str,
    budgets: tuple[float, ...],
    accuracy: str | None,
    chance: float,
    bootstrap: int,
    seed: int,
    out: str | None,
) -> None:
    """Fit the runs of TABLE (CSV or JSON lines: loss and two of parameters, tokens, compute) and predict a budget."""
    from tatara.errors import DataError
    from tatara.scaling.prediction import analyse, predict
    from tatara.scaling.stage_run import write
    from tatara.scaling.table import read_runs

    if any(budget <= 0 for budget in budgets):
        raise DataError("--budget must be positive")
    runs = read_runs(table)
    analysis = analyse(runs, bootstrap=bootstrap, seed=seed)
    predictions = [found for budget in budgets for found in predict(analysis, budget)]
    _show_laws(analysis)
    _show_predictions(predictions, max(run.compute for run in runs))
    if accuracy is not None:
        _show_accuracy(accuracy, chance, predictions)
    for line in analysis.warnings:
        click.echo(f"note: {line}")
    if out is not None:
        write(Path(out), analysis, predictions)
        click.echo(f"written: {Path(out) / 'scaling.html'}")


@click.command()
@click.option("--config", "file", metavar="FILE", required=True, help="The sweep (YAML); see SweepConfig.")
@click.option("--dry-run", is_flag=True, help="Show what would run and why; run nothing.")
@click.option("--address", metavar="http://HOST:8265", help="Submit each run to this cluster through its Jobs API.")
def run(file: str, dry_run: bool, address: str | None) -> None:
    """Train the models of a sweep that are not there yet, and fit their laws."""
    import yaml

    from tatara import config, storage
    from tatara.cli.running import show_plan
    from tatara.recipe.definition import load_recipe
    from tatara.recipe.execution import run_recipe
    from tatara.recipe.launch import LocalLauncher, RemoteLauncher
    from tatara.recipe.planning import plan_recipe
    from tatara.scaling.sweep import SweepConfig, sweep_recipe

    sweep = config.load_file(SweepConfig, file)
    # Beside the runs, so that the page can be looked at, and run again by `tatara run`.
    below = Path(storage.absolute(sweep.root)) if storage.is_local(sweep.root) else Path(".tatara")
    page = below / "sweeps" / f"{sweep.name}.yaml"
    text = yaml.safe_dump(sweep_recipe(sweep), sort_keys=False)
    with storage.errors_named(str(page), "write the recipe"):
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(text, encoding="utf-8")
    recipe = load_recipe(page)
    if dry_run:
        show_plan(plan_recipe(recipe))
        return
    launcher = RemoteLauncher(address, Path.cwd()) if address else LocalLauncher()
    run_recipe(recipe, launcher=launcher, say=click.echo)


@click.command()
@click.argument("table", type=click.Path())
@click.option("--bound", "bounds", multiple=True, metavar="SOURCE=LEAST:MOST", help="Shares allowed; may be repeated.")
@click.option("--weight", "weights", multiple=True, metavar="SET=WEIGHT", help="Of a validation set; may be repeated.")
def mix(table: str, bounds: tuple[str, ...], weights: tuple[str, ...]) -> None:
    """Predict the best data mixture from TABLE (columns mix.SOURCE and loss.SET)."""
    from tatara.errors import DataError
    from tatara.scaling.mixture import best_mixture, fit_mixtures, parse_bound, read_mixtures

    heights = {}
    for text in weights:
        name, _, value = text.partition("=")
        try:
            heights[name] = float(value)
        except ValueError:
            raise DataError(f"{text!r} is no weight: write SET=WEIGHT, such as code=2") from None
    law = fit_mixtures(read_mixtures(table))
    found = best_mixture(law, dict(parse_bound(text) for text in bounds), heights or None)
    click.echo(f"{len(law.runs.shares)} runs, {law.form} law; 95 % intervals")
    _table(
        ("source", "share", "interval"),
        [(name, f"{share.value:.1%}", f"{share.low:.1%} to {share.high:.1%}") for name, share in found.shares.items()],
    )
    rows = [*found.losses.items(), ("weighted", found.weighted)]
    residuals = [f"{value:.2%}" for value in law.residual]
    _table(
        ("validation", "loss", "interval", "misses runs by"),
        [
            (name, f"{loss.value:.4f}", f"{loss.low:.4f} to {loss.high:.4f}", miss)
            for (name, loss), miss in zip(rows, [*residuals, ""], strict=True)
        ],
    )


def _show_laws(analysis: Any) -> None:
    rows = []
    for side in (analysis.tokens, analysis.parameters):
        if side.law is not None:
            found = side.law.literals()
            coefficient, exponent = found["coefficient"], found["exponent"]
            rows.append((f"best {side.axis} = a x compute^b", "a", *_figures(coefficient)))
            rows.append(("", "b", *_figures(exponent)))
    if analysis.parametric is not None:
        found = analysis.parametric.literals()
        first = "loss = E + A/parameters^alpha + B/tokens^beta"
        for name in ("E", "A", "B", "alpha", "beta"):
            rows.append((first, name, *_figures(found[name])))
            first = ""
    _table(("law", "constant", "value", "95 % interval"), rows)


def _figures(value: Any) -> tuple[str, str]:
    return f"{value['value']:.4g}", f"{value['low']:.4g} to {value['high']:.4g}"


def _show_predictions(predictions: Sequence[Any], largest: float) -> None:
    from tatara.scaling.laws import words

    if not predictions:
        return
    rows = [
        (
            f"{found.compute:.3g}",
            f"{found.compute / largest:.3g}x",
            found.method,
            *(words(value) for value in (found.parameters, found.tokens, found.loss)),
        )
        for found in predictions
    ]
    _table(("FLOPs", "beyond the runs", "method", "parameters", "tokens", "loss"), rows)


def _show_accuracy(table: str, chance: float, predictions: Sequence[Any]) -> None:
    import numpy as np

    from tatara.scaling.accuracy import fit_sigmoid
    from tatara.scaling.table import number, read_rows

    pairs = [
        (number(table, line, "loss", row.get("loss")), number(table, line, "accuracy", row.get("accuracy")))
        for line, row in read_rows(table)
    ]
    sigmoid = fit_sigmoid(pairs, chance)
    rng = np.random.default_rng(0)
    rows = []
    for found in predictions:
        if found.loss is None:
            continue
        # The interval of the loss as a normal distribution of the same width.
        spread = (found.loss.high - found.loss.low) / (2 * 1.96)
        losses = rng.normal(found.loss.value, spread, 2000) if np.isfinite(spread) else None
        value = sigmoid.at(found.loss.value, losses)
        rows.append((f"{found.compute:.3g}", found.method, f"{value.value:.1%} ({value.low:.1%} to {value.high:.1%})"))
    _table(("FLOPs", "method", "accuracy"), rows)


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*row)
    Console(highlight=False).print(table)
