"""What a run report is made from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

STAGE_STATUSES = ("done", "skipped", "failed", "interrupted", "running")


@dataclass(frozen=True)
class StageRecord:
    """One stage of a recipe run."""

    name: str
    """Stage name, for example ``"pretrain"``."""
    kind: str
    """Kind of the artifact it writes, for example ``"checkpoint"``."""
    status: str
    """``"done"``, ``"skipped"`` (its artifact was already there), ``"failed"``, ``"interrupted"`` or
    ``"running"``."""
    seconds: float | None = None
    """Wall time; ``None`` where it did not run."""
    started: float | None = None
    """Start, in seconds since the epoch; without it the timeline puts the stages one after the other."""
    artifact: str | None = None
    """Reference of the committed artifact, for example ``"checkpoint/quickstart@1"``."""
    fingerprint: str | None = None
    """Fingerprint of the artifact, in hex."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """The resolved config; nested mappings are shown dotted."""
    metrics: Mapping[str, Any] = field(default_factory=dict)
    """Summary figures from the artifact's manifest."""
    series: Sequence[Mapping[str, Any]] = ()
    """Rows of the metric log: ``step``, ``time`` and values by name."""
    reports: Mapping[str, Any] = field(default_factory=dict)
    """What the stage reported by key: ``funnel``, ``dropped_samples``, ``document_samples``, ``generations``,
    ``proof``, ``table`` (one or a list of them)."""
    inputs: Sequence[str] = ()
    """References of the input artifacts."""
    log_tail: str = ""
    """The end of the stage's log."""


@dataclass(frozen=True)
class LineageNode:
    """A raw source, an artifact or an endpoint."""

    id: str
    label: str
    """What stands in the box, for example ``"quickstart"``."""
    kind: str
    """``"source"``, an artifact kind, or ``"endpoint"``."""
    version: int | None = None
    fingerprint: str | None = None
    bytes: int | None = None
    detail: str = ""
    """One more line, for example ``"1,204 files"``."""


@dataclass(frozen=True)
class LineageEdge:
    """``target`` was made from ``source`` (node ids)."""

    source: str
    target: str


@dataclass(frozen=True)
class Lineage:
    """The graph from the raw sources to the endpoint."""

    nodes: Sequence[LineageNode] = ()
    edges: Sequence[LineageEdge] = ()


@dataclass(frozen=True)
class RunRecord:
    """One run of one recipe, complete or not."""

    recipe: str
    """Recipe name."""
    run_id: str
    started: float
    """Seconds since the epoch."""
    status: str
    """``"done"``, ``"failed"``, ``"running"`` or ``"interrupted"``."""
    finished: float | None = None
    """Seconds since the epoch; ``None`` while it runs."""
    address: str | None = None
    """Where the model is or was served, for example ``"http://127.0.0.1:8000/v1"``."""
    stages: Sequence[StageRecord] = ()
    lineage: Lineage = field(default_factory=Lineage)
    """Left empty, it is drawn from the stages' artifacts and inputs."""
    environment: Mapping[str, Any] = field(default_factory=dict)
    """As ``tatara.tracking.environment()`` returns it."""
    command: str = ""
    """The command line."""


def lineage_of(run: RunRecord) -> Lineage:
    """The run's lineage, or, where it has none, the graph that its stages' artifacts and inputs make."""
    if run.lineage.nodes:
        return run.lineage
    nodes: dict[str, LineageNode] = {}
    edges: list[LineageEdge] = []
    for stage in run.stages:
        for reference in stage.inputs:
            nodes.setdefault(reference, _node_of_reference(reference, None))
        target = stage.artifact
        if target is None:
            continue
        nodes[target] = _node_of_reference(target, stage)
        edges += [LineageEdge(reference, target) for reference in stage.inputs]
    return Lineage(tuple(nodes.values()), tuple(edges))


def _node_of_reference(reference: str, stage: StageRecord | None) -> LineageNode:
    """Read ``kind/name@version``; anything else is a raw source, or the artifact of a stage under an unusual name."""
    path, _, version = reference.rpartition("@")
    kind, _, name = path.rpartition("/")
    if not (path and version.isdigit()):
        kind, name, version = "", reference, ""
    return LineageNode(
        id=reference,
        label=name or reference,
        kind=stage.kind if stage else kind.rpartition("/")[2] or "source",
        version=int(version) if version else None,
        fingerprint=stage.fingerprint if stage else None,
    )
