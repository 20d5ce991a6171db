"""Runs the scaling stage: reads the figures of its checkpoints, fits, and writes what it found."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tatara.artifact import Artifact
from tatara.errors import DataError
from tatara.scaling.isoflop import IsoFlop
from tatara.scaling.laws import words
from tatara.scaling.plots import isoflop_svg, law_svg, page
from tatara.scaling.prediction import Analysis, Prediction, allows_predictions, analyse, literals, predict
from tatara.scaling.stage import ScalingConfig
from tatara.scaling.table import Run, complete, write_runs
from tatara.stage import StageRun

_FURTHER = 10.0


def run(config: ScalingConfig, stage_run: StageRun) -> dict[str, Any]:
    """Fit the laws; see `tatara.scaling.stage.STAGE`.

    Returns:
        How many runs and predictions there are, and what was predicted for the largest budget.

    Raises:
        DataError: A checkpoint lacks a figure, or budgets are asked for and the runs allow no prediction.
    """
    runs = runs_of(stage_run.inputs, config.loss)
    if not runs:
        raise DataError("scaling has no runs: give checkpoints as inputs, or use `tatara scaling fit TABLE`")
    analysis = analyse(runs, bootstrap=config.bootstrap, seed=config.seed)
    for line in analysis.warnings:
        stage_run.log(line)
    predictions = _predictions(config, analysis)
    write(stage_run.output.path, analysis, predictions)
    for key, value in report(analysis, predictions).items():
        stage_run.report(key, value)
    for found in predictions:
        stage_run.log(
            f"{found.compute:.3g} FLOPs, {found.method}: {words(found.parameters)} parameters on "
            f"{words(found.tokens)} tokens, loss {words(found.loss)}"
        )
    summary: dict[str, Any] = {"runs": len(runs), "predictions": len(predictions)}
    if predictions:
        last = predictions[-1]
        summary |= {
            "budget": last.compute,
            "best_parameters": last.parameters.value,
            "best_tokens": last.tokens.value,
            **({"predicted_loss": last.loss.value} if last.loss else {}),
        }
    return summary


def _predictions(config: ScalingConfig, analysis: Analysis) -> list[Prediction]:
    """For the budgets that are asked for, or, where none are, for a larger one if the runs say anything of it."""
    if not config.budgets and not allows_predictions(analysis):
        return []
    budgets = config.budgets or (_FURTHER * max(run.compute for run in analysis.runs),)
    return [found for budget in sorted(budgets) for found in predict(analysis, budget)]


def runs_of(inputs: Mapping[str, Artifact], loss: str) -> list[Run]:
    """A run for each checkpoint.

    Raises:
        DataError: A checkpoint does not say its size, its tokens or its loss, or they are no positive numbers.
    """
    runs = []
    for name, checkpoint in inputs.items():
        found: dict[str, float] = {}
        for column, figure in (("parameters", "parameters"), ("tokens", "tokens"), ("loss", loss)):
            value = checkpoint.metrics.get(figure)
            if not isinstance(value, int | float) or not 0 < value < math.inf:
                raise DataError(
                    f"input {name} ({checkpoint.reference}): its {figure} is {value}, not a positive number"
                )
            found[column] = float(value)
        runs.append(complete(found, more={"run": name}))
    return runs


def write(directory: Path, analysis: Analysis, predictions: Sequence[Prediction]) -> None:
    """Write ``fit.json``, ``runs.csv``, the pictures and a page with all of them."""
    directory.mkdir(parents=True, exist_ok=True)
    text = json.dumps(_finite(literals(analysis, predictions)), indent=1)
    (directory / "fit.json").write_text(text + "\n", encoding="utf-8")
    write_runs(directory / "runs.csv", analysis.runs)
    for side in (analysis.tokens, analysis.parameters):
        for name, picture in (("isoflop", isoflop_svg(side)), ("law", law_svg(side, predictions))):
            if picture is not None:
                (directory / f"{name}-{side.axis}.svg").write_text(picture + "\n", encoding="utf-8")
    (directory / "scaling.html").write_text(page(analysis, predictions), encoding="utf-8")


def report(analysis: Analysis, predictions: Sequence[Prediction]) -> dict[str, Any]:
    """What goes into the run report: curves and tables."""
    columns = ["compute", "method", "parameters", "tokens", "loss"]
    rows = [
        [f"{found.compute:.3g}", found.method, words(found.parameters), words(found.tokens),
         words(found.loss)]
        for found in predictions
    ]  # fmt: skip
    runs = [[run.more.get("run", run.line), run.parameters, run.tokens, run.compute, run.loss] for run in analysis.runs]
    return {
        "curve": [*_curves(analysis.tokens), *_law_curve(analysis.tokens)],
        "table": [
            {"title": "Best model of a budget, with 95 % intervals", "columns": columns, "rows": rows},
            {"title": "Runs", "columns": ["run", "parameters", "tokens", "compute", "loss"], "rows": runs},
        ],
    }


def _curves(side: IsoFlop) -> list[dict[str, Any]]:
    found = []
    for parabola in side.parabolas:
        places = sorted(getattr(run, side.axis) for run in parabola.runs)
        low, high = math.log10(places[0]), math.log10(places[-1])
        line = [low + (high - low) * step / 30 for step in range(31)]
        marks = [] if parabola.problem else [{"x": math.log10(parabola.best.value), "label": "minimum"}]
        found.append(
            {
                "title": f"IsoFLOP curve at {parabola.budget:.3g} FLOPs",
                "x": f"log10 of {side.axis}",
                "y": "loss, nats per token",
                "series": [
                    {"name": "parabola", "points": [[x, parabola.at(10**x)] for x in line]},
                    {"name": "runs", "points": sorted([math.log10(getattr(run, side.axis)), run.loss]
                                                      for run in parabola.runs)},
                ],
                "marks": marks,
            }
        )  # fmt: skip
    return found


def _law_curve(side: IsoFlop) -> list[dict[str, Any]]:
    if side.law is None:
        return []
    counted = [parabola for parabola in side.parabolas if not parabola.problem]
    law = side.law
    ends = [math.log10(edge) for edge in law.reach]
    return [
        {
            "title": f"Best {side.axis} = {law.coefficient:.3g} x compute^{law.exponent:.3f}",
            "x": "log10 of FLOPs",
            "y": f"log10 of {side.axis}",
            "series": [
                {"name": "law", "points": [[x, math.log10(law.at(10**x).value)] for x in ends]},
                {"name": "minima", "points": [[math.log10(item.budget), math.log10(item.best.value)]
                                              for item in counted]},
            ],
        }
    ]  # fmt: skip


def _finite(value: Any) -> Any:
    """JSON has no NaN: what is not finite is null."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
