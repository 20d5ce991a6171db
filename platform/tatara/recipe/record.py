"""The record of a run: ``run.json`` and the report, put together from the artifacts and the logs."""

import dataclasses
import json
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tatara.artifact import Artifact, Store
from tatara.errors import StorageError
from tatara.recipe.definition import Recipe
from tatara.recipe.planning import PlannedStage
from tatara.stage import METRICS, RECORD, work_path
from tatara.tracking import (
    Lineage,
    LineageEdge,
    LineageNode,
    RunRecord,
    StageRecord,
    environment,
    read_metrics,
    write_report,
)


@dataclass(frozen=True)
class StageOutcome:
    """What became of a stage.

    Attributes:
        status: ``done``, ``skipped``, ``failed``, ``interrupted`` or ``running``.
        artifact: What it committed, or what was there already.
        started: Seconds since the epoch.
        seconds: How long it ran.
        log_tail: The end of its log.
    """

    status: str
    artifact: Artifact | None
    started: float | None = None
    seconds: float | None = None
    log_tail: str = ""

    def ended(self, status: str, log_tail: str, artifact: Artifact | None = None) -> "StageOutcome":
        """The outcome once the stage ended."""
        seconds = time.time() - self.started if self.started is not None else None
        return dataclasses.replace(self, status=status, log_tail=log_tail, artifact=artifact, seconds=seconds)


def write_record(
    directory: Path,
    recipe: Recipe,
    planned: list[PlannedStage],
    outcomes: Mapping[str, StageOutcome],
    status: str,
    started: float,
) -> None:
    """Write ``run.json`` and ``report.html`` into a run's directory."""
    stages = [_stage_record(item, outcomes[item.item.key]) for item in planned if item.item.key in outcomes]
    record = RunRecord(
        recipe=recipe.name,
        run_id=directory.name,
        started=started,
        finished=time.time(),
        status=status,
        address=_address(outcomes),
        stages=tuple(stages),
        lineage=_lineage(recipe, outcomes),
        environment=environment(Path(__file__).resolve().parent),
        command=" ".join(sys.argv),
    )
    summary = dataclasses.asdict(dataclasses.replace(record, stages=()))
    summary["stages"] = [
        {key: value for key, value in dataclasses.asdict(stage).items() if key not in {"series", "reports", "log_tail"}}
        for stage in stages
    ]
    (directory / "run.json").write_text(json.dumps(summary, indent=1, ensure_ascii=False, default=str))
    write_report(record, directory / "report.html")


def _stage_record(item: PlannedStage, outcome: StageOutcome) -> StageRecord:
    made = outcome.artifact
    return StageRecord(
        name=item.item.key,
        kind=item.item.stage.kind,
        status=outcome.status,
        seconds=outcome.seconds,
        started=outcome.started,
        artifact=made.reference if made else None,
        fingerprint=item.plan.fingerprint,
        config=item.item.config.dump(),
        metrics=made.metrics if made else {},
        series=_read_series(item, made),
        reports=_read_reports(made),
        inputs=tuple(item.job.inputs.values()),
        log_tail=outcome.log_tail,
    )


def _read_series(item: PlannedStage, made: Artifact | None) -> list[dict[str, Any]]:
    """The metric series of the artifact or, of a stage that did not get that far, of its partial result."""
    if made is None:
        partial = work_path(item.job, item.plan.fingerprint) / METRICS
        return read_metrics(partial) if partial.exists() else []
    recorded = f"{RECORD}/{METRICS}"
    return read_metrics(made.local(recorded)) if made.files(recorded) else []


def _read_reports(made: Artifact | None) -> dict[str, Any]:
    if made is None:
        return {}
    try:
        reports: dict[str, Any] = made.read_json(f"{RECORD}/report.json")
    except StorageError:
        return {}
    return reports


def _address(outcomes: Mapping[str, StageOutcome]) -> str | None:
    for outcome in outcomes.values():
        if outcome.artifact is not None and outcome.artifact.kind == "endpoint":
            return str(outcome.artifact.metrics.get("address") or "") or None
    return None


def _lineage(recipe: Recipe, outcomes: Mapping[str, StageOutcome]) -> Lineage:
    """The graph of everything that the run's artifacts were made from, raw files included."""
    store = Store(recipe.root)
    nodes: dict[str, LineageNode] = {}
    edges: dict[tuple[str, str], LineageEdge] = {}
    for outcome in outcomes.values():
        if outcome.artifact is None:
            continue
        for node in store.lineage(outcome.artifact).walk():
            nodes[node.reference] = _node(node.reference, node.fingerprint, node.artifact)
            for entry in node.inputs.values():
                edges[entry.reference, node.reference] = LineageEdge(entry.reference, node.reference)
            sources = node.artifact.manifest.sources if node.artifact else None
            if sources is not None:
                raw = f"raw files of {node.reference}"
                nodes[raw] = LineageNode(
                    raw, "raw files", "source", None, sources.sha256, sources.bytes, f"{sources.files:,} files"
                )
                edges[raw, node.reference] = LineageEdge(raw, node.reference)
    return Lineage(tuple(nodes.values()), tuple(edges.values()))


def _node(reference: str, fingerprint: str, found: Artifact | None) -> LineageNode:
    kind, _, rest = reference.partition("/")
    name, _, version = rest.partition("@")
    size = sum(entry.size for entry in found.manifest.files) if found else None
    detail = "" if found else "not in the store any more"
    return LineageNode(reference, name, kind, int(version) if version.isdecimal() else None, fingerprint, size, detail)
