"""From what a run's learner and workers told of their time to the figures that the model is calibrated with."""

import bisect
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tatara.rl.simulation.calibration import EnginePoint, MeasuredRun, MeasuredShares, TrainedBatch

_FEWEST = 3
"""Batches that a measurement needs, after those of the start."""
_PER_OCTAVE = 2
_PER_OTHER = 4
"""Paces are put together by concurrency, this many classes per doubling, and by how many others worked beside."""
_TRAINED = 200
_LENGTHS = 2_000
"""Batches and lengths that are kept; the last ones."""

Interval = tuple[float, float]
"""Start and end, in seconds since the epoch."""


@dataclass(frozen=True)
class LearnedBatch:
    """A rollout batch as the learner went through it; times in seconds since the epoch."""

    number: int
    asked: float
    """When the learner began to wait for it."""
    began: float
    """When it had it."""
    updated: float
    """When it had new weights."""
    published: float
    """When it had given them out."""
    tokens: float
    """Prompts and responses."""
    rollouts: int
    response: float
    """Tokens of a response, mean."""
    staleness: float
    """Updates between a rollout's first token and this one, mean."""

    @classmethod
    def of(cls, event: Mapping[str, Any], positions: float) -> "LearnedBatch | None":
        """Of the learner's event ``rollout_batch``; None where it lacks a part, as after a restart.

        Args:
            event: As written.
            positions: Tokens that its rows hold, used or not, per row.
        """
        waits = [(start, seconds) for start, seconds, what in event["spans"] if what == "wait"]
        syncs = [(start, seconds) for start, seconds, what in event["spans"] if what == "sync"]
        if not waits or not syncs:
            return None
        (asked, waited), (updated, gave) = waits[-1], syncs[-1]
        if not asked <= asked + waited < updated:
            return None
        rollouts = int(event["rollouts"])
        tokens = event["fill"] * event["rows"] * positions
        return cls(event["number"], asked, asked + waited, updated, updated + gave, tokens, rollouts,
                   event["response_mean"], event["staleness"])  # fmt: skip


@dataclass(frozen=True)
class Recorded:
    """Everything that a run told.

    Attributes:
        batches: In order.
        formed: When the buffer put each batch together, seconds since the epoch, by its number.
        spans: Of each rollout worker: start, end, what.
        paces: Of each rollout worker: start, end, steps, tokens.
        statuses: The last of each rollout worker.
        rewards: The last of each reward worker.
    """

    batches: Sequence[LearnedBatch]
    formed: Mapping[int, float] = field(default_factory=dict)
    spans: Mapping[str, Collection[tuple[float, float, str]]] = field(default_factory=dict)
    paces: Mapping[str, Collection[tuple[float, float, int, int]]] = field(default_factory=dict)
    statuses: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    rewards: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def figures(told: Recorded, **settings: Any) -> MeasuredRun | None:
    """What the run was, as `tatara simulate --run` reads it; None where it was too short to say.

    Args:
        told: Everything there is.
        **settings: Counts of the run, fields of `MeasuredRun`.
    """
    staleness, engines = settings["staleness"], settings["engines"]
    # The first batches fill the pipeline; they are longer than the others.
    steady = list(told.batches)[staleness + 2 :]
    lengths = [max(1, length) for each in told.statuses.values() for length in each["lengths"]][-_LENGTHS:]
    if len(steady) < _FEWEST or not lengths:
        return None
    start, end = told.batches[staleness + 1].published, steady[-1].published
    learner = Busy((each.began, each.published) for each in told.batches)
    working = {
        name: Busy((start, end) for start, end, what in spans if what in ("generate", "sync"))
        for name, spans in told.spans.items()
    }
    # So are engines: what they compute first is compiled, or read for the first time.
    paces = {name: [pace for pace in each if pace[0] >= start] for name, each in told.paces.items()}
    points = _points(paces, learner, working)
    if not points:
        return None
    seconds = end - start
    spent = {
        what: sum(Busy((s, e) for s, e, name in spans if name == what).within(start, end)
                  for spans in told.spans.values()) / (seconds * engines)
        for what in ("generate", "sync")
    }  # fmt: skip
    train = sum(each.updated - each.began for each in steady)
    wait = sum(each.began - each.asked for each in steady)
    rollout, learning = settings["rollout_devices"], settings["learner_devices"]
    measured = MeasuredShares(
        batches_per_second=len(steady) / seconds,
        tokens_per_second=sum(each.response * each.rollouts for each in steady) / seconds,
        utilisation=(rollout * spent["generate"] + learning * train / seconds) / (rollout + learning),
        generate=spent["generate"],
        train=train / seconds,
        wait=wait / seconds,
        mean_staleness=_mean(each.staleness for each in steady),
    )
    return MeasuredRun(
        **settings,
        engine=points,
        lengths=tuple(lengths),
        prompt_tokens=max(0.0, _mean(each.tokens / each.rollouts - each.response for each in steady)),
        train=tuple(
            TrainedBatch(
                tokens=each.tokens,
                seconds=each.updated - each.began,
                beside=sum(one.share(each.began, each.updated) for one in working.values()),
            )
            for each in steady[-_TRAINED:]
        ),
        # All that is no waiting and no training: what comes between two batches besides, such as checkpoints.
        publish_seconds=max(0.0, seconds - train - wait) / len(steady),
        handout_seconds=_mean(
            max(0.0, each.began - max(each.asked, told.formed[each.number]))
            for each in steady
            if each.number in told.formed
        ),
        **_times(told),
        measured=measured,
    )


def _times(told: Recorded) -> dict[str, float]:
    """Of messages and synchronisations, seconds."""
    published = {each.number + 1: each.published for each in told.batches[1:]}
    syncs = [sync for each in told.statuses.values() for sync in each["syncs"] if sync.version in published]
    deliver = _mean(each["deliver_seconds"] for each in told.statuses.values() if each["deliver_seconds"])
    scored = sum(each["scored"] for each in told.rewards.values())
    turnaround = sum(each["turnaround"] for each in told.rewards.values())
    # Rollouts leave, are handed to a scorer, and wait there: the first two take as long as each other.
    reward = 2 * deliver + (turnaround / scored if scored else 0.0)
    return {
        "load_seconds": _mean(sync.pause + sync.probe for sync in syncs),
        "fetch_seconds": _mean(max(0.0, sync.at - sync.pause - sync.probe - published[sync.version]) for sync in syncs),
        "lease_seconds": _mean(_idle_after_sync(told.spans.values()), deliver),
        "reward_seconds": reward,
    }


def _idle_after_sync(workers: Iterable[Collection[tuple[float, float, str]]]) -> list[float]:
    """Seconds between loading weights and generating, where the engine had nothing to go on with."""
    found = []
    for spans in workers:
        told = list(spans)
        for before, idle, after in zip(told, told[1:], told[2:], strict=False):
            if (before[2], idle[2], after[2]) == ("sync", "wait", "generate"):
                found.append(idle[1] - idle[0])
    found.sort()
    # Later ones waited for more than an answer.
    return found[: max(1, len(found) // 2)]


def _points(
    paces: Mapping[str, Collection[tuple[float, float, int, int]]], learner: "Busy", working: "Mapping[str, Busy]"
) -> tuple[EnginePoint, ...]:
    """Speeds by concurrency and by what worked beside the engine."""
    sums: dict[tuple[int, int], list[float]] = {}
    for name, each in paces.items():
        others = [learner, *(busy for other, busy in working.items() if other != name)]
        for start, end, steps, tokens in each:
            if tokens <= 0 or end <= start:
                continue
            beside = sum(other.share(start, end) for other in others)
            key = (round(_PER_OCTAVE * math.log2(tokens / steps)), round(_PER_OTHER * beside))
            total = sums.setdefault(key, [0.0, 0.0, 0.0, 0.0])
            for index, value in enumerate((end - start, steps, tokens, beside * (end - start))):
                total[index] += value
    return tuple(
        EnginePoint(concurrency=tokens / steps, tokens_per_second=tokens / seconds, beside=beside / seconds,
                    seconds=seconds)
        for _, (seconds, steps, tokens, beside) in sorted(sums.items())
    )  # fmt: skip


class Busy:
    """Times in which something worked."""

    def __init__(self, intervals: Iterable[Interval]) -> None:
        """Take intervals that do not overlap."""
        self._intervals = sorted(intervals)
        self._starts = [start for start, _ in self._intervals]

    def within(self, start: float, end: float) -> float:
        """Seconds of a time."""
        index = max(0, bisect.bisect_right(self._starts, start) - 1)
        total = 0.0
        for one, other in self._intervals[index:]:
            if one >= end:
                break
            total += max(0.0, min(end, other) - max(start, one))
        return total

    def share(self, start: float, end: float) -> float:
        """Of a time."""
        return self.within(start, end) / (end - start)


def _mean(values: Iterable[float], otherwise: float = 0.0) -> float:
    found = list(values)
    return sum(found) / len(found) if found else otherwise
