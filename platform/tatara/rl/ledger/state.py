"""What the buffer knows: every group that was handed out and is not yet in a checkpoint."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from tatara.rl.curriculum import CurriculumStage, HeldOut, Passing
from tatara.rl.ledger.packing import Record
from tatara.rl.prompts import StageOrder
from tatara.rl.record import Purpose
from tatara.rl.staleness import BatchSizes

GroupKey = tuple[Purpose, int, int]
"""Purpose, round, position."""
KEPT_NOTES = 2000
"""Latest batches, evaluations and transcripts that are kept for whoever asks."""


@dataclass(frozen=True)
class Settings:
    """What a run is asked to do; the same for a journal's whole life."""

    stages: tuple[CurriculumStage, ...]
    orders: tuple[StageOrder, ...]
    sizes: BatchSizes
    staleness: int
    passing: Passing
    held_out: HeldOut | None = None
    held_out_prompts: int = 0
    transcripts: int = 2
    """Per batch and per evaluation."""
    transcripts_every: int = 1
    """Batches between batches with transcripts."""


@dataclass
class Group:
    """All rollouts of one prompt."""

    purpose: Purpose
    round: int
    position: int
    stage: int
    """Of training; -1 in an evaluation."""
    prompt: int
    """Number in the prepared file."""
    size: int
    version: int
    """Of the policy when the first of its rollouts was handed out."""
    attempt: int = 0
    """How often the prompt came back before."""
    rollouts: dict[int, Record] = field(default_factory=dict)
    scores: dict[int, Record] = field(default_factory=dict)
    holders: dict[int, str] = field(default_factory=dict)
    """Rollout worker of each index that is being generated."""
    scorers: dict[int, str] = field(default_factory=dict)
    """Reward worker of each index that is being scored."""
    since: float = 0.0
    """When it was last handed out, in seconds since the epoch."""

    @property
    def key(self) -> GroupKey:
        """Its name."""
        return self.purpose, self.round, self.position

    @property
    def complete(self) -> bool:
        """Whether every rollout is generated and scored."""
        return len(self.scores) == self.size

    @property
    def unheld(self) -> list[int]:
        """Indices that nobody generates and that are not there."""
        return [index for index in range(self.size) if index not in self.rollouts and index not in self.holders]

    @property
    def unscored(self) -> list[int]:
        """Indices that are generated, not scored, and that nobody scores."""
        return [index for index in sorted(self.rollouts) if index not in self.scores and index not in self.scorers]

    @property
    def phase(self) -> str:
        """Where it is on its way: admitted, leased, generated, scoring or ready."""
        if self.complete:
            return "ready"
        if len(self.rollouts) == self.size:
            return "scoring" if self.scorers or self.scores else "generated"
        return "leased" if self.holders else "admitted"


@dataclass
class Worker:
    """A rollout or reward worker as the buffer last heard of it."""

    version: int | None = None
    """Of the policy; None for a reward worker."""
    seen: float = 0.0
    rollouts: int = 0
    scores: int = 0
    released: bool = False
    """Whether it was given up, and not heard of since."""


@dataclass
class State:
    """All of it; changed by `tatara.rl.ledger.apply.apply` alone."""

    attempt: str = ""
    """Which start of the driver the workers belong to."""
    next_position: int = 0
    places: dict[int, int] = field(default_factory=dict)
    """Next place in the order of each stage."""
    live: dict[int, int] = field(default_factory=dict)
    """Groups of each stage that were trained on or still can be."""
    replays: list[list[int]] = field(default_factory=list)
    """Stage, position from which it may come, prompt, attempt: of prompts that come back."""
    groups: dict[GroupKey, Group] = field(default_factory=dict)
    """Those in no batch, and those of open evaluations."""
    batches: dict[int, list[Group]] = field(default_factory=dict)
    """Batches that are in no checkpoint."""
    next_batch: int = 0
    retired: int = 0
    """Batches below are in a checkpoint."""
    dropped: Counter[str] = field(default_factory=Counter)
    """Groups by reason."""
    dropped_since: list[list[Any]] = field(default_factory=list)
    """Position, prompt and reason of those dropped since the last batch."""
    dropped_before: dict[int, list[list[Any]]] = field(default_factory=dict)
    """The same of those dropped before each batch that is in no checkpoint."""
    in_a_row: int = 0
    """Groups dropped for want of a signal since the last one that had it."""
    failed: str | None = None
    """Why the run cannot go on."""
    newest: int = 0
    """Version that was published last."""
    highest: int = 0
    """Newest version ever published; above `newest` while a learner repeats what it did after its checkpoint."""
    published: bool = False
    """Whether anything was."""
    evaluations: dict[int, Record | None] = field(default_factory=dict)
    """What held-out prompts said of each version; None while they are being answered."""
    probes: dict[int, dict[str, list[list[float]]]] = field(default_factory=dict)
    """By version and worker, of the latest versions."""
    workers: dict[str, Worker] = field(default_factory=dict)
    staleness: Counter[int] = field(default_factory=Counter)
    """Rollouts trained on, by batch number minus first version."""
    notes: list[Record] = field(default_factory=list)
    noted: int = 0
    """Notes ever made."""
    ignored: int = 0
    """Rollouts and scores that came twice or too late."""
    stopped: bool = False
    # Found again from the groups when a snapshot is read; they only save looking through all groups.
    pending: set[GroupKey] = field(default_factory=set)
    """Groups with indices that nobody generates."""
    waiting: set[GroupKey] = field(default_factory=set)
    """Groups with rollouts that nobody scores."""

    def note(self, kind: str, **what: Any) -> None:
        """Remember something that the driver will ask for."""
        self.noted += 1
        self.notes.append({"number": self.noted, "kind": kind, **what})
        del self.notes[:-KEPT_NOTES]

    def index(self, group: Group) -> None:
        """Bring `pending` and `waiting` up to date with a group."""
        for found, kept in ((group.unheld, self.pending), (group.unscored, self.waiting)):
            if found and group.key in self.groups:
                kept.add(group.key)
            else:
                kept.discard(group.key)


def snapshot(state: State) -> Record:
    """A state as plain data: the lists and mappings in it are those of the state, so write it before the next event."""
    return {
        **{name: value for name, value in vars(state).items() if name not in _SPECIAL},
        "groups": [vars(group) for group in state.groups.values()],
        "batches": [[number, [vars(group) for group in groups]] for number, groups in state.batches.items()],
        "workers": [[name, vars(worker)] for name, worker in state.workers.items()],
    }


def restore(record: Record) -> State:
    """The inverse of `snapshot`; the record may have been through msgpack."""
    plain = {name: value for name, value in record.items() if name not in _SPECIAL}
    state = State(**plain)
    state.dropped, state.staleness = Counter(state.dropped), Counter(state.staleness)
    for fields in record["groups"]:
        group = Group(**fields)
        state.groups[group.key] = group
        state.index(group)
    state.batches = {number: [Group(**fields) for fields in groups] for number, groups in record["batches"]}
    state.workers = {name: Worker(**fields) for name, fields in record["workers"]}
    return state


_SPECIAL = ("groups", "batches", "workers", "pending", "waiting")
