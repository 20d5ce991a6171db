"""What every step of a run is fed: a pure function of the configuration, the seed and the step. No data is read."""

import bisect
import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tatara.model.spec import RopeScaling
from tatara.train.feed.batch_sizes import BatchSizes
from tatara.train.feed.blocks import Stretch
from tatara.train.feed.phases import Skip, data_step
from tatara.train.feed.positions import Int64, bins_at


@dataclass(frozen=True)
class SourceSize:
    """What a plan must know of a source: packed sequences per epoch and tokens per sequence."""

    bins: int
    sequence_length: int


@dataclass(frozen=True)
class Rope:
    """Rotary settings that differ from those of the model's specification; None is as specified."""

    theta: float | None = None
    scaling: RopeScaling | None = None
    max_position_embeddings: int | None = None


@dataclass(frozen=True)
class PlannedPhase:
    """A phase with everything filled in.

    Attributes:
        from_step: First step of data.
        until_step: The step after its last one within the run, without skips.
        name: As configured, else its number.
        shares: Share of each source's sequences by name; they sum to one.
        sequence_length: Tokens per sequence.
        rope: What differs from the model's specification, if anything does.
    """

    from_step: int
    until_step: int
    name: str
    shares: Mapping[str, float]
    sequence_length: int
    rope: Rope | None


@dataclass(frozen=True)
class StepPlan:
    """One step.

    Attributes:
        step: The training step, counted from 0.
        data_step: The step of data that it uses; later by what was left out.
        phase: Number of its phase.
        positions: Global positions of its sequences: how many lie before each, counted over the whole run.
        sequence_length: Tokens per sequence.
        rope: Rotary settings of the phase; None while they are those of the model's specification.
    """

    step: int
    data_step: int
    phase: int
    positions: range
    sequence_length: int
    rope: Rope | None


@dataclass(frozen=True)
class TrainingPlan:
    """The order of all data of a run, and beyond its end. Made by `tatara.train.feed.planning.training_plan`.

    Attributes:
        steps: Training steps of the run.
        seed: Of the order.
        names: Sources, in alphabetical order; their numbers are places in it.
        sizes: Size of each source.
        phases: By rising steps.
        batches: Sequences of every step of data.
        stretches: Runs of positions with the same mix; a phase without weights of its own is in that of the last one.
        skips: Windows of data that are left out.
    """

    steps: int
    seed: int
    names: tuple[str, ...]
    sizes: tuple[SourceSize, ...]
    phases: tuple[PlannedPhase, ...]
    batches: BatchSizes
    stretches: tuple[Stretch, ...]
    skips: tuple[Skip, ...] = ()

    def with_skips(self, skips: Sequence[Skip]) -> "TrainingPlan":
        """The same plan with these windows of data left out, in place of those before."""
        return dataclasses.replace(self, skips=tuple(skips))

    def at(self, step: int) -> StepPlan:
        """The plan of a training step, at the same cost for each."""
        data = data_step(step, self.skips)
        number = bisect.bisect_right([phase.from_step for phase in self.phases], data) - 1
        phase, first = self.phases[number], self.batches.before(data)
        positions = range(first, first + self.batches.size(data))
        return StepPlan(step, data, number, positions, phase.sequence_length, phase.rope)

    def samples(self, positions: range | Int64) -> tuple[Int64, Int64]:
        """Which sequence lies at each position, whatever the step it is in.

        Args:
            positions: Global positions, shape ``[n]``.

        Returns:
            Number of the source and the bin within it, each ``[n]``.
        """
        where = np.asarray(positions, np.int64)
        source, cursor = self.cursors(where)
        bins = np.empty_like(where)
        for each in np.unique(source):
            mine = source == each
            bins[mine] = bins_at(cursor[mine], self.sizes[each].bins, self.source_seed(int(each)))
        return source, bins

    def cursors(self, positions: range | Int64) -> tuple[Int64, Int64]:
        """Number of the source at each position, and how many of its samples lie before it, each ``[n]``."""
        where = np.asarray(positions, np.int64)
        source, cursor = np.empty_like(where), np.empty_like(where)
        which = np.searchsorted([stretch.start for stretch in self.stretches], where, side="right") - 1
        for each in np.unique(which):
            mine = which == each
            source[mine], cursor[mine] = self.stretches[each].samples(where[mine])
        return source, cursor

    def source_seed(self, source: int) -> int:
        """Key of a source's own order: from its name, so that another source changes nothing in it."""
        digest = hashlib.blake2b(self.names[source].encode(), digest_size=8, key=str(self.seed).encode()).digest()
        return int.from_bytes(digest, "big")

    def taken_before(self, position: int) -> dict[str, int]:
        """Sequences of each source before a position."""
        taken = dict.fromkeys(self.names, 0)
        for stretch in self.stretches:
            if stretch.start <= position:
                ends = [other.start for other in self.stretches if other.start > stretch.start]
                counts = stretch.taken_before(min([position, *ends]))
                taken |= {self.names[s]: count for s, count in zip(stretch.sources, counts, strict=True)}
        return taken

    def position_of(self, source: int, cursor: int) -> int:
        """The position of a source's sample, the inverse of `cursors`.

        Raises:
            ValueError: The run never comes to it, nor does what would follow it.
        """
        found = None
        for number, stretch in enumerate(self.stretches):
            if source in stretch.sources and stretch.before[stretch.sources.index(source)] <= cursor:
                position = stretch.position_of(source, cursor)
                ends = [other.start for other in self.stretches[number + 1 :]]
                found = position if not ends or position < ends[0] else found
        if found is None:
            raise ValueError(f"source {self.names[source]} has no sample {cursor} in the plan")
        return found

    @property
    def end(self) -> int:
        """Positions of all steps of the run, those left out included."""
        return self.batches.before(data_step(self.steps - 1, self.skips) + 1)

    def epochs(self) -> dict[str, float]:
        """How often each source is gone through over the run."""
        return self._epochs(0, self.end)

    def epochs_by_phase(self) -> list[dict[str, float]]:
        """How often each source is gone through in each phase."""
        limits = [self.batches.before(phase.from_step) for phase in self.phases]
        return [self._epochs(first, end) for first, end in zip(limits, [*limits[1:], self.end], strict=True)]

    def repeats(self, most: float = 4.0) -> list[str]:
        """A warning for every source that is gone through more than ``most`` times.

        Up to four epochs are nearly as good as new data (Muennighoff et al., "Scaling Data-Constrained Language
        Models", 2023, section 6).
        """
        return [
            f"source {name} is repeated {epochs:.1f} times over the run, more than {most:g}: "
            "lower its weight, or give it more data"
            for name, epochs in self.epochs().items()
            if epochs > most
        ]

    def _epochs(self, first: int, end: int) -> dict[str, float]:
        before, after = self.taken_before(first), self.taken_before(max(first, end))
        return {
            name: (after[name] - before[name]) / size.bins for name, size in zip(self.names, self.sizes, strict=True)
        }
