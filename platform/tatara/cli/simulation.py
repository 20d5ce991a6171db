"""``tatara simulate``: how busy the loop of rollouts and training keeps a cluster, before one is rented."""

import json
import sys
from pathlib import Path
from typing import Any

import click

_SWEEP_COLUMNS = ("GPUs", "staleness", "rollout + learner", "batches/hour", "tokens/s/GPU", "utilisation", "generate",
                  "train", "sync", "wait", "learner waits", "mean staleness", "max")  # fmt: skip


class _Counts(click.ParamType):
    """Whole numbers with commas between."""

    name = "counts"

    def __init__(self, least: int) -> None:
        self._least = least

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        parts = str(value).split(",")
        if not all(part.strip().isdecimal() and int(part) >= self._least for part in parts):
            self.fail(f"'{value}': give whole numbers of {self._least} or more with commas between, such as 8,64")
        return tuple(dict.fromkeys(int(part) for part in parts))


@click.command()
@click.option("--run", "measured", metavar="FILE",
              help="Figures of a measured run as JSON (MeasuredRun in tatara/rl/simulation/calibration.py says which): "
                   "predict that run instead of a cluster.")  # fmt: skip
@click.option("--model", metavar="NAME", help="What is trained: a published architecture, such as llama3-8b.")
@click.option("--params", metavar="COUNT", help="What is trained, by its size instead, such as 7B.")
@click.option("--hardware", default="h100", show_default=True, help="Accelerator.")
@click.option("--gpus", type=_Counts(1), default="8,32,128,512,1024", show_default=True,
              help="Sizes of the cluster to compare.")  # fmt: skip
@click.option("--staleness", type=_Counts(0), default="0,1,2,4", show_default=True,
              help="Bounds on the age of a rollout to compare, in batches; 0 is by turns.")  # fmt: skip
@click.option("--mean-tokens", type=click.FloatRange(1), default=4096.0, show_default=True,
              help="Mean tokens of a response.")  # fmt: skip
@click.option("--spread", type=click.FloatRange(0), default=1.0, show_default=True,
              help="Standard deviation of the lengths over their mean.")  # fmt: skip
@click.option("--max-tokens", type=click.IntRange(1), default=16384, show_default=True,
              help="Tokens of the longest response.")  # fmt: skip
@click.option("--prompt-tokens", type=click.FloatRange(0), default=256.0, show_default=True,
              help="Mean tokens of a prompt.")  # fmt: skip
@click.option("--group-size", type=click.IntRange(1), default=16, show_default=True, help="Rollouts of a prompt.")
@click.option("--groups-per-gpu", type=click.FloatRange(0, min_open=True), default=1.0, show_default=True,
              help="Prompts in a batch, per GPU of the cluster.")  # fmt: skip
@click.option("--tp", type=click.IntRange(1), default=1, show_default=True, help="GPUs that an engine is sharded over.")
@click.option("--drain", is_flag=True, help="Let responses end before new weights come.  [default: they go on]")
@click.option("--colocated", is_flag=True, help="Learner and engines share all GPUs.  [default: each has its own]")
@click.option("--batches", type=click.IntRange(1), default=6, show_default=True, help="Rollout batches to simulate.")
@click.option("--seed", type=int, default=0, show_default=True, help="Draws the lengths of responses.")
@click.option("--plot", metavar="DIRECTORY", help="Write curves over the size of the cluster as SVG.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
@click.pass_context
def simulate(context: click.Context, measured: str | None, staleness: tuple[int, ...], **options: Any) -> None:
    """Predict how busy the loop of rollouts and training keeps GPUs, event by event. Starts nothing.

    Say what is trained (--model or --params), or give the figures of a run (--run). A row for each size and staleness
    shows how the GPUs are best divided, the speed, and which share of their time goes to what. What was assumed of
    engines and learner is listed below the table.
    """
    if measured is not None:
        given = context.get_parameter_source("staleness")
        bounds = staleness if given is not click.core.ParameterSource.DEFAULT else ()
        _predict_run(measured, bounds, options)
    else:
        _sweep(staleness, options)


def _sweep(staleness: tuple[int, ...], options: dict[str, Any]) -> None:
    from tatara.rl.simulation.accelerators import Workload
    from tatara.rl.simulation.loop import Lengths
    from tatara.rl.simulation.sweep import sweep
    from tatara.train.planner.hardware import find_hardware
    from tatara.train.planner.request import read_model

    work = Workload(
        spec=read_model(options["model"], options["params"]),
        hardware=find_hardware(options["hardware"]),
        lengths=Lengths(options["mean_tokens"], options["spread"], options["max_tokens"]),
        prompt_tokens=options["prompt_tokens"],
        group_size=options["group_size"],
        groups_per_device=options["groups_per_gpu"],
        tp=options["tp"],
        in_flight="drain" if options["drain"] else "continue",
        colocated=options["colocated"],
    )
    points = sweep(work, options["gpus"], staleness, options["batches"], options["seed"])
    written = _plots(points, options["plot"])
    if options["as_json"]:
        click.echo(json.dumps({"assumptions": work.assumed.lines(), "points": [_literals(point) for point in points],
                               "plots": [str(path) for path in written]}, indent=1))  # fmt: skip
        return
    console = _console()
    curve, name = work.engine_curve(), options["model"] or options["params"]
    console.print(
        f"[bold]{name}[/bold] on {work.hardware.name}: an engine of {work.tp} runs {work.concurrency()} responses at "
        f"{curve.tokens_per_second(work.concurrency()):,.0f} tokens/s, one alone at {curve.tokens_per_second(1):,.0f}"
    )
    console.print(_table(points))
    for path in written:
        console.print(f"wrote {path}", soft_wrap=True)
    console.print("[bold]Assumptions[/bold]")
    for line in work.assumed.lines():
        console.print(f"- {line}", soft_wrap=True)


def _predict_run(measured: str, bounds: tuple[int, ...], options: dict[str, Any]) -> None:
    from tatara.rl.simulation import calibration, events

    run = calibration.read_run(measured)
    # A batch of a small run takes a moment to simulate, and its lengths vary.
    batches, seed = max(options["batches"], 50), options["seed"]
    outcome = events.simulate(run.loop(), batches, seed=seed)
    compared = calibration.compare(run, outcome)
    others = {bound: events.simulate(run.loop(bound), batches, seed=seed) for bound in bounds}
    if options["as_json"]:
        page = {
            "predicted": outcome.figures(),
            "compared": [{"name": item.name, "measured": item.measured, "predicted": item.predicted, "off": item.off}
                         for item in compared],
            "staleness": {str(bound): other.figures() for bound, other in others.items()},
        }  # fmt: skip
        click.echo(json.dumps(page, indent=1))
        return
    from rich.table import Table

    console = _console()
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("figure", "measured", "predicted", "off"):
        table.add_column(column, justify="left" if column == "figure" else "right")
    for item in compared:
        table.add_row(item.name, f"{item.measured:.4g}", f"{item.predicted:.4g}", f"{item.off:+.1%}")
    console.print(f"[bold]{Path(measured).name}[/bold]: {run.engines} engines, staleness {run.staleness}")
    console.print(table if compared else "nothing to compare with: the file has no figures under 'measured'")
    table = Table(title="Predicted", box=None, pad_edge=False, header_style="bold", title_justify="left")
    for column in ("staleness", "batches/s", "tokens/s", "utilisation", "learner waits", "mean staleness", "max"):
        table.add_column(column, justify="right")
    for bound, other in {run.staleness: outcome, **others}.items():
        table.add_row(str(bound), f"{other.batches_per_second:.4g}", f"{other.tokens_per_second:,.0f}",
                      f"{other.utilisation:.1%}", f"{other.learner['wait']:.1%}", f"{other.mean_staleness:.2f}",
                      str(other.max_staleness))  # fmt: skip
    console.print(table)


def _plots(points: Any, directory: str | None) -> list[Path]:
    if directory is None:
        return []
    from tatara.rl.simulation.plots import write_plots

    return write_plots(points, directory)


def _console() -> Any:
    from rich.console import Console

    # Wide enough for the tables where nothing says how wide the page is.
    return Console(highlight=False, width=None if sys.stdout.isatty() else 160)


def _literals(point: Any) -> dict[str, Any]:
    return {
        "gpus": point.devices,
        "staleness": point.staleness,
        "rollout_gpus": point.rollout_devices,
        "learner_gpus": point.learner_devices,
        **point.outcome.figures(),
    }


def _table(points: Any) -> Any:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in _SWEEP_COLUMNS:
        table.add_column(column, justify="right")
    for point in points:
        outcome = point.outcome
        colocated = point.rollout_devices == point.devices
        table.add_row(
            f"{point.devices:,}",
            str(point.staleness),
            "shared" if colocated else f"{point.rollout_devices} + {point.learner_devices}",
            f"{outcome.batches_per_second * 3600:.1f}",
            f"{point.tokens_per_device:,.0f}",
            f"{outcome.utilisation:.1%}",
            *(f"{outcome.devices[name]:.1%}" for name in ("generate", "train", "sync", "wait")),
            f"{outcome.learner['wait']:.1%}",
            f"{outcome.mean_staleness:.2f}",
            str(outcome.max_staleness),
        )
    return table
