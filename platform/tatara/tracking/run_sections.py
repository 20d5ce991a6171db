"""Report sections about the run: its timeline, curves, proofs, tables, configs, environment and logs."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import Any

from tatara.tracking.charts import Curve, curve_points, downsample, line_chart
from tatara.tracking.limits import Limits, mappings, number
from tatara.tracking.markup import Child, Markup, clip, duration, figure, join, short, size, tag
from tatara.tracking.record import STAGE_STATUSES, RunRecord, StageRecord

CHARTS = {
    "loss": ("Loss", "nats per token"),
    "learning_rate": ("Learning rate", ""),
    "tokens_per_second": ("Throughput", "tokens/s"),
    "gradient_norm": ("Gradient norm", ""),
    "tflops_per_device": ("Arithmetic per device", "TFLOP/s"),
    "mfu": ("Model FLOP utilisation", "share of the peak"),
    "data_wait_seconds": ("Waiting for data", "s per step"),
    "router_violation": ("Fullest expert beyond the mean", "relative to it"),
    "router_entropy": ("Entropy of router load, least balanced layer", "1 is balance"),
    "router_dead_experts": ("Experts without tokens", "experts"),
    "expert_similarity": ("Expert similarity", "mean cosine"),
    "memory_bytes": ("Memory of the largest rank", "bytes"),
    "gpu_memory_bytes": ("GPU memory, peak of the largest rank", "bytes"),
}
"""Title and unit by the last word of a metric's name, in the order in which they are shown."""
FAMILIES = ("validation_loss", "parameter_norm", "update_ratio")
"""Metrics whose name goes on after one of these words are drawn by `training_sections`."""
POLICY = (
    "ratio_mean", "ratio_min", "ratio_max", "clipped_low", "clipped_high", "clipped_delta", "kl_reference",
    "kl_behaviour", "entropy", "mismatch_mean", "mismatch_max", "correction_mean", "corrected",
)  # fmt: skip
"""Metrics of a policy loss by their last word: `rl_sections` draws them, and all that begin with ``rl.``."""


def family(name: str) -> tuple[str, str] | None:
    """The family and the member of a metric such as ``train.validation_loss.web``; None for any other."""
    words = name.split(".")
    place = next((index for index, word in enumerate(words[:-1]) if word in FAMILIES), None)
    return None if place is None else (words[place], ".".join(words[place + 1 :]))


def status_chip(status: str) -> Markup:
    """A stage's or run's status as a coloured word."""
    tone = {"done": "good", "failed": "bad", "interrupted": "bad", "running": "live"}.get(status, "plain")
    return tag("span", "reused" if status == "skipped" else status, class_=f"chip chip-{tone}")


def timeline(run: RunRecord) -> Markup | None:
    """Time per stage, as bars on a common time axis."""
    if not run.stages:
        return None
    spans = _spans(run.stages, run.finished if run.finished is not None else time.time())
    end = max(start + seconds for start, seconds in spans) or 1.0
    rows = []
    for stage, (start, seconds) in zip(run.stages, spans, strict=True):
        ran = seconds > 0 or stage.status in ("failed", "interrupted", "running")
        # A bar that starts at the very end would be out of sight.
        left = min(98.5, max(0.0, start / end * 100))
        width = min(100.0 - left, seconds / end * 100)
        status = stage.status if stage.status in STAGE_STATUSES else "done"
        bar = tag("i", class_=f"span span-{status}", style=f"left:{short(left)}%;width:{short(width)}%")
        rows.append(
            tag(
                "li",
                tag("span", stage.name, class_="span-name"),
                tag("span", bar if ran else tag("i", class_="span-none"), class_="track", aria_hidden="true"),
                tag("span", duration(seconds) if ran else "", class_="span-time"),
                status_chip(stage.status),
            )
        )
    return tag("ol", rows, class_="timeline")


def _spans(stages: Sequence[StageRecord], now: float) -> list[tuple[float, float]]:
    """Start (from the first stage's) and length of each stage, in seconds; what was skipped takes none."""
    known = [stage.started for stage in stages if stage.started is not None and stage.status != "skipped"]
    origin, clock = min(known, default=0.0), 0.0
    spans = []
    for stage in stages:
        start, seconds = clock, 0.0
        if stage.status != "skipped":
            seconds = max(0.0, number(stage.seconds) or 0.0)
            if stage.started is not None:
                start = stage.started - origin
                if stage.seconds is None and stage.status == "running":
                    seconds = max(0.0, now - stage.started)
        spans.append((start, seconds))
        clock = start + seconds
    return spans


def charts(stage: StageRecord, limits: Limits) -> Markup | None:
    """A stage's curves: the loss wide, the others side by side."""
    drawn: list[Markup] = []
    for names in list(_chart_groups(stage.series))[: limits.charts]:
        curves, lost = [], 0
        for index, name in enumerate(names):
            points, not_finite = curve_points(stage.series, name)
            lost += not_finite
            if points:
                last = name.rpartition(".")[2]
                label = {"loss": "training", "validation_loss": "validation"}.get(last, last.replace("_", " "))
                style = "b" if "validation" in name or index else "a"
                curves.append(Curve(label, downsample(points, limits.points), style))
        if not curves:
            continue
        title, unit = CHARTS.get(names[0].rpartition(".")[2], (names[0], ""))
        chart = line_chart(
            curves,
            identity=f"chart-{slug(stage.name)}-{len(drawn)}",
            title=title,
            unit=unit,
            log_toggle=title == "Loss",
        )
        note = tag("p", f"{lost:,} values are not finite and not drawn.", class_="note bad") if lost else None
        drawn.append(tag("div", chart, note, class_="chart-cell wide" if title == "Loss" else "chart-cell"))
    return tag("div", drawn, class_="charts") if drawn else None


def _chart_groups(series: Sequence[Mapping[str, Any]]) -> Iterator[list[str]]:
    """Metric names by chart: validation loss beside training loss, known ones first."""
    names = list(dict.fromkeys(name for row in series for name in row if name not in ("step", "time")))
    names = [name for name in names if family(name) is None and not _of_policy(name)]
    known = list(CHARTS)

    def order(name: str) -> int:
        last = name.rpartition(".")[2]
        return known.index(last) if last in known else len(known)

    taken: set[str] = set()
    for name in sorted(names, key=order):
        if name in taken:
            continue
        prefix, dot, last = name.rpartition(".")
        group = [name, f"{prefix}{dot}validation_loss"] if last == "loss" else [name]
        group = [member for member in group if member in names]
        taken.update(group)
        yield group


def _of_policy(name: str) -> bool:
    return name.startswith("rl.") or (name.startswith("train.") and name.rpartition(".")[2] in POLICY)


def facts(values: Mapping[str, Any], limits: Limits) -> Markup:
    """Figures by name; nested mappings dotted, truth values as words, sizes in bytes readable."""
    rows = []
    for name, value in list(flatten(values))[: limits.rows]:
        if isinstance(value, bool):
            shown: Child = tag("span", "yes" if value else "no", class_=f"chip chip-{'good' if value else 'bad'}")
        elif name.rpartition(".")[2].endswith("bytes") and number(value) is not None:
            shown = size(value)
        elif number(value) is not None:
            shown = str(value) if name.endswith(("version", "seed", "port")) else figure(value)
        else:
            shown = clip(as_text(value), limits.value)
        rows.append(tag("div", tag("dt", clip(name.replace("_", " "), 120)), tag("dd", shown)))
    return tag("dl", rows, class_="facts")


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested mappings as dotted names, as the command line spells them."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def as_text(value: Any) -> str:
    """A config value as YAML would have it on one line."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def table(report: Mapping[str, Any], limits: Limits) -> Markup | None:
    """A table a stage reported: ``title``, ``columns`` and ``rows`` (lists, or mappings by column)."""
    columns = report.get("columns")
    rows = report.get("rows")
    if not isinstance(columns, list | tuple) or not isinstance(rows, list | tuple):
        return None
    body = []
    for row in rows[: limits.rows]:
        cells = [row.get(column) for column in columns] if isinstance(row, Mapping) else row
        if not isinstance(cells, list | tuple):
            continue
        body.append(
            tag(
                "tr",
                [
                    tag("td", figure(cell), class_="number")
                    if number(cell) is not None
                    else tag("td", "" if cell is None else clip(as_text(cell), limits.value))
                    for cell in cells
                ],
            )
        )
    more = len(rows) - len(body)
    title = clip(report.get("title", "Table"), 120)
    first = next((row for row in rows if isinstance(row, list | tuple | Mapping)), ())
    sample = [first.get(column) for column in columns] if isinstance(first, Mapping) else list(first)
    head = tag(
        "tr",
        [
            tag("th", clip(column, 80), scope="col", class_="number" if number(cell) is not None else None)
            for column, cell in zip_longest(columns, sample[: len(columns)])
        ],
    )
    return join(
        tag("h3", title),
        tag(
            "div",
            tag("table", tag("thead", head), tag("tbody", body), class_="grid-table"),
            class_="scroll",
            tabindex="0",
            role="group",
            aria_label=title,
        ),
        tag("p", f"{more:,} more rows.", class_="note") if more > 0 else None,
    )


def tables(stage: StageRecord, limits: Limits) -> list[Markup]:
    """All tables of a stage."""
    return [drawn for report in mappings(stage.reports.get("table")) if (drawn := table(report, limits)) is not None]


def config(stage: StageRecord, limits: Limits) -> Markup:
    """A stage's resolved config, dotted, folded away."""
    lines, used = [], 0
    for name, value in flatten(stage.config):
        text = clip(as_text(value), limits.value)
        used += len(name) + len(text)
        if used > limits.config:
            lines.append(tag("span", "… the rest is in the artifact's manifest", class_="muted"))
            break
        lines.append(join(tag("b", name), ": ", text, "\n"))
    print_of = tag("code", stage.fingerprint[:12], class_="muted") if stage.fingerprint else None
    return tag(
        "details",
        tag("summary", tag("span", stage.name), print_of),
        tag("p", "writes ", tag("code", stage.artifact), class_="note") if stage.artifact else None,
        tag("pre", lines, tabindex="0", aria_label=f"Config of {stage.name}")
        if lines
        else tag("p", "No config.", class_="note"),
        facts(stage.metrics, limits) if stage.metrics else None,
        class_="group",
    )


def log(stage: StageRecord, limits: Limits) -> Markup | None:
    """The end of a stage's log; open where the stage failed."""
    text = stage.log_tail.strip("\n")
    if not text:
        return None
    if len(text) > limits.log:
        end = text[-limits.log :]
        text = "…\n" + (end.partition("\n")[2] or end)
    return tag(
        "details",
        tag("summary", tag("span", stage.name), status_chip(stage.status)),
        tag("pre", text, tabindex="0", aria_label=f"Log of {stage.name}"),
        open=stage.status in ("failed", "interrupted"),
        class_="group",
    )


def environment(run: RunRecord, limits: Limits) -> Markup | None:
    """Command line, machine and versions."""
    if not run.environment and not run.command:
        return None
    machine = {key: value for key, value in run.environment.items() if key != "packages"}
    if isinstance(machine.get("gpus"), list | tuple):
        machine["gpus"] = ", ".join(map(str, machine["gpus"])) or "none"
    packages = run.environment.get("packages")
    return join(
        tag("pre", tag("span", "$ ", class_="muted"), clip(run.command, 4000), tabindex="0", aria_label="Command line")
        if run.command
        else None,
        facts(machine, limits),
        join(tag("h3", "Packages"), facts(packages, limits)) if isinstance(packages, Mapping) and packages else None,
    )


def slug(name: str) -> str:
    """A name as part of an element's id."""
    return "".join(character if character.isascii() and character.isalnum() else "-" for character in name)
