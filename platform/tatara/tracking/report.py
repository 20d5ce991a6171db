"""The run report: one HTML file that says everything about a recipe run, and needs nothing else to be read."""

import base64
import hashlib
import os
import tempfile
import time
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import tatara
from tatara.errors import StorageError
from tatara.tracking import corpus_sections as corpus
from tatara.tracking import curation_sections as curation
from tatara.tracking import run_sections as sections
from tatara.tracking.charts import curve_points
from tatara.tracking.limits import LEVELS, Limits, mappings, number
from tatara.tracking.lineage_graph import fold, lineage_figure
from tatara.tracking.markup import Child, Markup, clip, count, duration, figure, join, large, moment, size, tag
from tatara.tracking.record import RunRecord, StageRecord, lineage_of
from tatara.tracking.rl_sections import headline, reinforcement
from tatara.tracking.training_sections import training

MOST_BYTES = 1_400_000
Section = tuple[str, str, Child]
"""Anchor, heading, content."""


def write_report(run: RunRecord, path: str | os.PathLike[str]) -> None:
    """Write a run's report; the file is replaced in one step, so a reader never sees half of it.

    Raises:
        StorageError: The file cannot be written.
    """
    target = Path(path)
    page = render_report(run).encode()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(page)
            # mkstemp makes it private; a report is as readable as any other file.
            umask = os.umask(0)
            os.umask(umask)
            os.chmod(temporary, 0o666 & ~umask)
            os.replace(temporary, target)
        except OSError:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise StorageError(f"cannot write the run report {target}: {error.strerror}") from error


def render_report(run: RunRecord) -> str:
    """The report as one HTML page of at most ``MOST_BYTES`` bytes, with samples, curves and logs cut to fit."""
    page = ""
    for limits in LEVELS:
        page = _page(run, limits)
        if len(page.encode()) <= MOST_BYTES:
            break
    return page


def _page(run: RunRecord, limits: Limits) -> str:
    style = Markup(files("tatara.tracking").joinpath("report.css").read_text())
    script = Markup(files("tatara.tracking").joinpath("report.js").read_text())
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    # Only this very script may run, and nothing may be loaded: what a corpus holds stays inert twice over.
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; img-src data:"
    parts = [part for part in _sections(run, limits) if part[2]]
    title = f"{run.recipe} · Tatara run report"
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", name="generator", content=f"tatara {tatara.__version__}"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("link", rel="icon", href="data:,"),
        tag("title", title),
        tag("style", style),
    )
    navigation = tag(
        "nav",
        tag("div", [tag("a", anchor.capitalize(), href=f"#{anchor}") for anchor, _, _ in parts]),
        aria_label="Sections",
    )
    body = [
        tag("section", tag("h2", name, id=f"{anchor}-heading"), content, id=anchor, aria_labelledby=f"{anchor}-heading")
        for anchor, name, content in parts
    ]
    footer = tag(
        "footer",
        f"Written by Tatara {tatara.__version__} on {moment(time.time())}. This file needs no network.",
        class_="page",
    )
    content = tag(
        "body",
        tag("a", "Skip to the content", href="#content", class_="skip"),
        _header(run, limits),
        navigation,
        tag("main", body, id="content"),
        footer,
        tag("script", script),
    )
    return "<!doctype html>\n" + tag("html", head, content, lang="en") + "\n"


def _header(run: RunRecord, limits: Limits) -> Markup:
    end = run.finished if run.finished is not None else time.time()
    failed = next((stage for stage in run.stages if stage.status in ("failed", "interrupted")), None)
    tiles = [
        tag("div", tag("dt", label), tag("dd", tag("b", value), tag("small", note) if note else None), class_="tile")
        for label, value, note in _figures(run)
    ]
    return tag(
        "header",
        tag("p", "Tatara run report", class_="eyebrow"),
        tag("div", tag("h1", clip(run.recipe, 120)), sections.status_chip(run.status), class_="title"),
        tag(
            "p",
            tag("span", moment(run.started)),
            tag("span", "took " if run.finished is not None else "since ", tag("b", duration(end - run.started))),
            tag("span", "run ", tag("code", clip(run.run_id, 80))),
            class_="meta",
        ),
        tag(
            "p",
            tag("b", f"Stage {failed.name} {'failed' if failed.status == 'failed' else 'was interrupted'}."),
            f" {clip(_last_line(failed), limits.value)}",
            class_="failure",
            role="alert",
        )
        if failed
        else None,
        tag(
            "p",
            "Served at ",
            tag("code", run.address),
            class_="served",
        )
        if run.address
        else None,
        tag("dl", tiles, class_="tiles") if tiles else None,
        class_="page",
    )


def _last_line(stage: StageRecord) -> str:
    lines = [line for line in stage.log_tail.splitlines() if line.strip()]
    return lines[-1].strip() if lines else "Its log says nothing."


def _figures(run: RunRecord) -> Iterator[tuple[str, str, str]]:
    """The headline figures that are known: label, value, small print."""
    flows = [flow for stage in run.stages for flow in mappings(stage.reports.get("funnel"))]
    steps = [mappings(flow.get("stages")) for flow in flows]
    if steps and steps[0]:
        first, last = steps[0][0], steps[-1][-1] if steps[-1] else steps[0][-1]
        if number(last.get("documents")) is not None:
            of = f"of {count(first['documents'])} read" if number(first.get("documents")) is not None else ""
            yield "Documents kept", count(last["documents"]), of
        if number(last.get("bytes")) is not None:
            yield "Text kept", size(last["bytes"]), ""
    parameters = _metric(run, "parameters")
    if parameters is not None:
        yield "Model size", large(parameters), "parameters"
    loss = _metric(run, "validation_loss", series="last")
    if loss is not None:
        yield "Validation loss", figure(round(loss, 4)), "nats per token"
    speed = _metric(run, "tokens_per_second", series="median")
    if speed is not None:
        yield "Training speed", figure(round(speed)), "tokens/s"
    solved = headline(run.stages)
    if solved is not None:
        yield "Held-out prompts solved", f"{solved[0]:.1%}", solved[1]
    accounts = [row for stage in run.stages for row in mappings(stage.reports.get("time_account"))]
    effective = number(accounts[-1].get("effective")) if accounts else None
    if effective is not None and 0 <= effective <= 1:
        yield "Effective training time", f"{effective:.1%}", "of the elapsed time"
    steps_done = [stage for stage in run.stages if stage.status in ("done", "skipped")]
    reused = sum(stage.status == "skipped" for stage in run.stages)
    if run.stages:
        yield (
            "Stages",
            f"{len(steps_done)} / {len(run.stages)}",
            f"{reused} reused" if reused else "complete" if len(steps_done) == len(run.stages) else "",
        )


def _metric(run: RunRecord, name: str, *, series: str | None = None) -> float | None:
    """A figure of the last training stage that has it: from its metrics, else its series (last or median value)."""
    trained = [stage for stage in run.stages if stage.kind == "checkpoint"]
    for stage in reversed(trained or run.stages):
        for key, value in sections.flatten(stage.metrics):
            if key.rpartition(".")[2] == name and number(value) is not None:
                return number(value)
        names = {key for row in stage.series for key in row if key.rpartition(".")[2] == name} if series else set()
        for key in sorted(names):
            values = [value for _, value in curve_points(stage.series, key)[0]]
            if values:
                return values[-1] if series == "last" else sorted(values)[len(values) // 2]
    return None


def _sections(run: RunRecord, limits: Limits) -> Iterator[Section]:
    yield "stages", "Time per stage", sections.timeline(run)
    yield "funnel", "Funnel", _per_stage(run, "funnel", _funnel)
    yield "distributions", "Distributions", _per_stage(run, "histograms", curation.histograms)
    yield (
        "duplicates",
        "Clusters of duplicates",
        _per_stage(run, "duplicate_clusters", lambda value: curation.duplicate_clusters(value, limits)),
    )
    yield (
        "contamination",
        "Benchmark items in the corpus",
        _per_stage(run, "contamination", lambda value: curation.contamination(value, limits)),
    )
    yield (
        "documents",
        "Documents kept",
        _per_stage(run, "document_samples", lambda value: corpus.document_samples(value, limits)),
    )
    yield (
        "dropped",
        "Documents dropped",
        _per_stage(run, "dropped_samples", lambda value: corpus.dropped_samples(value, limits)),
    )
    curves = [(stage, drawn) for stage in run.stages if (drawn := _curves(stage, limits))]
    yield (
        "curves",
        "Curves",
        [join(tag("h3", stage.name) if len(curves) > 1 else None, drawn) for stage, drawn in curves],
    )
    trained = [(stage, drawn) for stage in run.stages if (drawn := training(stage, limits))]
    yield (
        "training",
        "Training",
        [join(tag("h3", stage.name) if len(trained) > 1 else None, drawn) for stage, drawn in trained],
    )
    learned = [(stage, drawn) for stage in run.stages if (drawn := reinforcement(stage, limits))]
    yield (
        "reinforcement",
        "Reinforcement learning",
        [join(tag("h3", stage.name) if len(learned) > 1 else None, drawn) for stage, drawn in learned],
    )
    yield "generations", "Generations", _per_stage(run, "generations", lambda value: corpus.generations(value, limits))
    lineage = fold(lineage_of(run), limits.sources)
    yield "lineage", "Lineage", lineage_figure(lineage) if lineage.nodes else None
    yield (
        "proofs",
        "Proofs",
        _per_stage(run, "proof", lambda value: [sections.facts(row, limits) for row in mappings(value)]),
    )
    yield "tables", "Tables", [sections.tables(stage, limits) for stage in run.stages if "table" in stage.reports]
    yield "configs", "Configs and figures", [sections.config(stage, limits) for stage in run.stages]
    yield "logs", "Logs", [drawn for stage in run.stages if (drawn := sections.log(stage, limits))]
    yield "environment", "Environment", sections.environment(run, limits)


def _curves(stage: StageRecord, limits: Limits) -> Markup | None:
    reported = curation.curves(stage.reports.get("curve"), stage.name, limits)
    return join(sections.charts(stage, limits), reported) or None


def _per_stage(run: RunRecord, key: str, draw: Any) -> list[Markup]:
    """What each stage reported under a key; a stage is named where several did."""
    drawn = [(stage, part) for stage in run.stages if key in stage.reports and (part := draw(stage.reports[key]))]
    return [join(tag("h3", stage.name) if len(drawn) > 1 else None, part) for stage, part in drawn]


def _funnel(value: Any) -> Markup | None:
    parts = []
    for report in mappings(value):
        reasons = corpus.drop_reasons(report)
        parts.append(join(corpus.funnel(report), (tag("h3", "Dropped, by reason"), reasons) if reasons else None))
    return join(parts) or None
