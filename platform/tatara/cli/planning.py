"""``tatara plan``: which layout a run wants, how much memory it takes and how fast it will be."""

import json
import sys
from dataclasses import asdict
from typing import Any

import click

_SHOWN_COLUMNS = ("tp", "pp", "cp", "ep", "dp", "virtual", "micro", "recompute", "memory", "bubble", "step", "tokens/s",
                  "TFLOP/s", "MFU", "slower by")  # fmt: skip


@click.command()
@click.option("--model", metavar="NAME", help="A published architecture, such as llama3-8b.")
@click.option("--params", metavar="COUNT", help="A size instead, such as 50M.")
@click.option("--gpus", type=click.IntRange(1), required=True, help="How many; all are used.")
@click.option("--seq", type=click.IntRange(1), required=True, help="Tokens per sequence.")
@click.option("--batch-tokens", metavar="COUNT", required=True, help="Tokens per step, such as 16M (x 1024 x 1024).")
@click.option("--hardware", default="h100", show_default=True, help="Accelerator.")
@click.option("--precision", type=click.Choice(["bf16", "fp8"]), default="bf16", show_default=True)
@click.option("--document-length", type=float, help="Mean tokens of the document a token is in.  [default: --seq]")
@click.option("--tp", type=click.IntRange(1), help="Fix tensor parallelism; the others likewise.")
@click.option("--pp", type=click.IntRange(1))
@click.option("--cp", type=click.IntRange(1))
@click.option("--ep", type=click.IntRange(1))
@click.option("--dp", type=click.IntRange(1))
@click.option("--virtual-stages", type=click.IntRange(1))
@click.option("--micro-batch-size", type=click.IntRange(1))
@click.option("--recompute", type=click.Choice(["none", "selective", "full"]))
@click.option("--top", type=click.IntRange(1), default=10, show_default=True, help="Layouts to list.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def plan(
    model: str | None,
    params: str | None,
    gpus: int,
    seq: int,
    batch_tokens: str,
    hardware: str,
    precision: Any,
    document_length: float | None,
    top: int,
    as_json: bool,
    **fixed: Any,
) -> None:
    """Rank the layouts of a training run on so many GPUs by predicted speed. Pure arithmetic: starts nothing."""
    from tatara.train.planner.assumptions import Assumptions
    from tatara.train.planner.hardware import find_hardware
    from tatara.train.planner.request import make_plan, read_model, workload
    from tatara.train.planner.search import Fixed

    spec = read_model(model, params)
    work = workload(spec, find_hardware(hardware), seq, batch_tokens, precision, document_length)
    found = make_plan(work, gpus, Fixed(**fixed))
    if as_json:
        click.echo(json.dumps(_literals(work, found, Assumptions(), top), indent=1))
        return
    _show(model or params or "", work, found, Assumptions(), top)


def _literals(work: Any, found: Any, assumed: Any, top: int) -> dict[str, Any]:
    layouts = []
    for item in found.best[:top]:
        layouts.append(
            {
                "layout": item.choice.layout.dump(),
                "micro_batch_size": item.choice.micro_batch_size,
                "recompute": item.choice.recompute,
                "micro_batches": item.micro_batches,
                "memory_bytes": {**item.memory.parts(), "total": item.memory.total},
                "bubble": item.bubble,
                "seconds": item.seconds,
                "exchanged": {name: asdict(exchange) for name, exchange in item.exchanged.items()},
                "step_seconds": item.step_seconds,
                "tokens_per_second": item.tokens_per_second,
                "tflops_per_gpu": item.flops_per_device / 1e12,
                "mfu": item.mfu,
            }
        )
    return {
        "parameters": work.spec.parameter_count(),
        "sequence_length": work.sequence_length,
        "global_batch_size": work.global_batch_size,
        "flops_per_token": work.spec.flops_per_token(work.attended),
        "hardware": asdict(work.hardware),
        "precision": work.precision,
        "assumptions": {**asdict(assumed), "stated": assumed.lines()},
        "warning": found.warning,
        "layouts": layouts,
    }


def _show(name: str, work: Any, found: Any, assumed: Any, top: int) -> None:
    from rich.console import Console

    # Wide enough for the tables where nothing says how wide the page is.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 140)
    best = found.best[0]
    console.print(
        f"[bold]{name}[/bold]: {work.spec.parameter_count() / 1e9:,.2f} billion parameters, {best.devices:,} "
        f"{work.hardware.name}, {work.global_batch_size:,} sequences of {work.sequence_length:,} tokens "
        f"({work.tokens:,} per step), {work.precision}"
    )
    console.print(
        f"{found.ranking.tried:,} layouts that divide model and batch were weighed, "
        f"{len(found.ranking.best):,} of them fit {work.hardware.memory / 2**30:.0f} GiB"
    )
    if found.warning:
        console.print(f"[bold yellow]note:[/bold yellow] {found.warning}", soft_wrap=True)
    console.print(_ranked(found.best[:top]))
    console.print(_memory(best, work.hardware.memory))
    console.print(_time(best))
    console.print("[bold]Assumptions[/bold]")
    for line in assumed.lines():
        console.print(f"- {line}", soft_wrap=True)


def _ranked(estimates: Any) -> Any:
    from rich.table import Table

    from tatara.train.planner.request import why_slower

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in _SHOWN_COLUMNS:
        table.add_column(column, justify="left" if column in ("recompute", "slower by") else "right")
    for item in estimates:
        layout = item.choice.layout
        table.add_row(
            *(str(size) for size in (layout.tp, layout.pp, layout.cp, layout.ep, layout.dp, layout.virtual_stages)),
            str(item.choice.micro_batch_size),
            item.choice.recompute,
            f"{item.memory.total / 2**30:.0f} GiB",
            f"{item.bubble:.1%}",
            f"{item.step_seconds:.3g} s",
            f"{item.tokens_per_second:,.0f}",
            f"{item.flops_per_device / 1e12:.0f}",
            f"{item.mfu:.1%}",
            "" if item is estimates[0] else why_slower(estimates[0], item),
        )
    return table


def _memory(best: Any, available: float) -> Any:
    from rich.table import Table

    table = Table(title=f"Memory of rank {best.memory.stage} of the pipeline", box=None, pad_edge=False,
                  header_style="bold", title_justify="left")  # fmt: skip
    for name in best.memory.parts():
        table.add_column(name, justify="right")
    table.add_column("total", justify="right")
    table.add_column("of", justify="right")
    sizes = [*best.memory.parts().values(), best.memory.total, available]
    table.add_row(*(f"{size / 2**30:.1f} GiB" for size in sizes))
    return table


def _time(best: Any) -> Any:
    from rich.table import Table

    table = Table(title="Where a step's time goes, and what a GPU exchanges", box=None, pad_edge=False,
                  header_style="bold", title_justify="left")  # fmt: skip
    for column in ("part", "exposed", "of the step", "sent per step", "alone it takes"):
        table.add_column(column, justify="left" if column == "part" else "right")
    for name, seconds in best.seconds.items():
        exchange = best.exchanged.get(name)
        shown = exchange is not None and exchange.bytes > 0
        table.add_row(
            name,
            f"{seconds:.3f} s",
            f"{seconds / best.step_seconds:.1%}",
            f"{exchange.bytes / 1e9:,.1f} GB" if shown else "",
            f"{exchange.seconds:.3f} s" if shown else "",
        )
    return table
