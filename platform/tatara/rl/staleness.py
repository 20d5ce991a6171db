"""Staleness bounded by admission: which group may start under which version, and which groups a batch must take.

Version v of the policy is what v updates made of the first one, and rollout batch b turns version b into b + 1. A
rollout that began with version v may therefore be trained on by batch ``v + staleness`` at the latest: its deadline.
Nothing is thrown away to keep this, since a group starts only if all that have started can still be trained on in time.
That needs two rules, as scheduling by earliest deadline does (Liu and Layland, 1973; Hall's condition for unit jobs):

- admission: the group that makes g + 1 groups in all may start under version v if batches up to ``v + staleness`` have
  room for g + 1;
- choice: a batch leaves behind only what later batches have room for before the deadlines. Taking just the groups whose
  deadline it is would not do: two batches filled with younger groups can leave more groups due than a batch can hold.
"""

import bisect
import functools
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class BatchSizes:
    """Groups in each rollout batch of a run, which stages of the curriculum may change.

    Attributes:
        starts: First batch of each stage, ascending from 0.
        groups: Groups in each batch of the stage.
        batches: Batches of the run; None is open.
    """

    starts: tuple[int, ...]
    groups: tuple[int, ...]
    batches: int | None = None

    def __post_init__(self) -> None:
        if len(self.starts) != len(self.groups) or not self.starts or self.starts[0] != 0:
            raise ValueError("each stage needs a first batch and a size, and the first stage begins with batch 0")
        if any(later <= earlier for earlier, later in zip(self.starts, self.starts[1:], strict=False)):
            raise ValueError(f"first batches of stages must ascend, got {self.starts}")
        if min(self.groups) < 1:
            raise ValueError("a batch has at least one group")
        if self.batches is not None and self.batches <= self.starts[-1]:
            raise ValueError(
                f"a run of {self.batches} batches never reaches the stage that begins with {self.starts[-1]}"
            )

    @functools.cached_property
    def _firsts(self) -> list[int]:
        """Number of the first group of each stage."""
        firsts = [0]
        for stage in range(1, len(self.starts)):
            firsts.append(firsts[-1] + (self.starts[stage] - self.starts[stage - 1]) * self.groups[stage - 1])
        return firsts

    def stage_of(self, batch: int) -> int:
        """Number of the stage that a batch belongs to."""
        return bisect.bisect_right(self.starts, batch) - 1

    def end(self, stage: int) -> int | None:
        """The batch after the last one of a stage; None: it is open."""
        return self.starts[stage + 1] if stage + 1 < len(self.starts) else self.batches

    def size(self, batch: int) -> int:
        """Groups in a batch."""
        return self.groups[self.stage_of(batch)]

    def before(self, batch: int) -> int:
        """Groups in all batches before one; past the end of the run, those of the whole run."""
        batch = batch if self.batches is None else min(batch, self.batches)
        stage = self.stage_of(batch)
        return self._firsts[stage] + (batch - self.starts[stage]) * self.groups[stage]

    def batch_of(self, group: int) -> int:
        """The batch with room for a group when batches are filled in order, the inverse of `before`."""
        stage = bisect.bisect_right(self._firsts, group) - 1
        return self.starts[stage] + (group - self._firsts[stage]) // self.groups[stage]

    def room(self, stage: int) -> int | None:
        """Groups in all batches of a stage; None: no end."""
        end = self.end(stage)
        return None if end is None else self.before(end) - self._firsts[stage]

    def first_group(self, stage: int) -> int:
        """Number of a stage's first group."""
        return self._firsts[stage]


def admits(group: int, version: int, staleness: int, sizes: BatchSizes) -> bool:
    """Whether a group may start under a version of the policy.

    Args:
        group: Groups that were trained on or still can be, dropped ones not counted.
        version: Version that the worker holds.
        staleness: Updates that may come between a rollout's first token and the update it is trained in.
        sizes: Groups in each batch.
    """
    return group < sizes.before(version + staleness + 1)


def needed_version(group: int, staleness: int, sizes: BatchSizes) -> int | None:
    """The first version under which a group may start, the inverse of `admits`; None: the run has no room for it."""
    batch = sizes.batch_of(group)
    if sizes.batches is not None and batch >= sizes.batches:
        return None
    return max(0, batch - staleness)


def deadline(version: int, staleness: int, last_batch: int | None = None) -> int:
    """The last batch that may train on a group.

    Args:
        version: Version under which it started.
        staleness: See `admits`.
        last_batch: Of the group's stage, whose batches take no other groups; None: open.
    """
    due = version + staleness
    return due if last_batch is None else min(due, last_batch)


@dataclass(frozen=True)
class Candidate:
    """A group that no batch has taken."""

    position: int
    deadline: int
    complete: bool
    """Generated and scored."""


def choose(candidates: Sequence[Candidate], batch: int, sizes: BatchSizes) -> tuple[int, ...] | None:
    """The groups of a batch.

    The most urgent complete ones, the oldest of equals first, so a slow group is waited for only if leaving it behind
    would make it or another one late.

    Args:
        candidates: All groups of the batch's stage that are in no batch, complete or not.
        batch: Its number.
        sizes: Groups in each batch.

    Returns:
        Positions, ascending; None while groups are missing.
    """
    size = sizes.size(batch)
    ready = sorted((each.deadline, each.position) for each in candidates if each.complete)
    if len(ready) < size:
        return None
    taken = ready[:size]
    left = sorted({(each.deadline, each.position) for each in candidates} - set(taken))
    for count, (due, _) in enumerate(left, 1):
        # The first `count` of those left must all be trained on by batch `due`.
        if count > sizes.before(due + 1) - sizes.before(batch + 1):
            return None
    return tuple(sorted(position for _, position in taken))
