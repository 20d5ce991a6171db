"""Who is slow: each rank's own time per step, gathered every few steps, and a rule that names the stragglers.

Ranks of a synchronous step all take the same time, most of it in waiting for the slowest one. What tells them apart is
the time outside of the waiting. Training says when it waits for others (`StepClock.waiting`, around collectives) and
when for data (`StepClock.loading`); the rest of a step is the rank's own.
"""

import contextlib
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from pydantic import Field

from tatara.config import Config

if TYPE_CHECKING:
    # The settings are read where nothing heavy is imported.
    import numpy as np
    import numpy.typing as npt

    Floats: TypeAlias = npt.NDArray[np.float64]

_TO_SIGMA = 1.4826
"""Standard deviation of a normal distribution per median absolute deviation."""


class StragglerSettings(Config):
    """When a rank counts as slow."""

    every: int = Field(10, ge=1)
    """Steps between two looks at all ranks; each look is one small collective."""
    window: int = Field(12, ge=2)
    """Looks that are taken together."""
    ratio: float = Field(1.2, gt=1)
    """Own time, relative to the median of the other ranks, from which on a rank is slow."""
    sigmas: float = Field(5.0, gt=0)
    """And how far beyond the usual noise, in robust standard deviations."""
    persistence: float = Field(0.9, gt=0, le=1)
    """Share of the looks in the window in which it must have been so."""


@dataclass(frozen=True)
class RankTime:
    """What one rank measured over a few steps, per step."""

    step_seconds: float
    own_seconds: float
    """Without waiting for other ranks; includes waiting for data."""
    data_seconds: float
    """Waiting for data."""


@dataclass(frozen=True)
class Straggler:
    """A rank that keeps the others waiting."""

    rank: int
    host: str
    ratio: float
    """Own time relative to the median of the other ranks, over the window."""
    seconds: float
    """Own time per step."""
    usual_seconds: float
    """Median of the other ranks."""
    cause: Literal["computing", "data"]
    """Where most of the excess is."""

    def line(self) -> str:
        """For the log."""
        doing = "waiting for data" if self.cause == "data" else "computing"
        return (
            f"rank {self.rank} on {self.host} is a straggler: {self.ratio:.2f} times the others' time "
            f"({self.seconds:.3f} s against {self.usual_seconds:.3f} s per step), most of it {doing}"
        )


class StepClock:
    """Measures one rank's steps; the three context managers cost a microsecond each."""

    def __init__(self) -> None:
        self._reset()
        self._within = False
        self.last_data_seconds = 0.0
        """Waiting for data in the last step."""

    def _reset(self) -> None:
        self._steps, self._total, self._waited, self._loaded = 0, 0.0, 0.0, 0.0

    @contextlib.contextmanager
    def step(self) -> Iterator[None]:
        """Around a whole step."""
        started, loaded, self._within = time.perf_counter(), self._loaded, True
        try:
            yield
        finally:
            self._within = False
        self._total += time.perf_counter() - started
        self._steps += 1
        self.last_data_seconds = self._loaded - loaded

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Around what waits for other ranks; outside of a step it does not count."""
        started = time.perf_counter()
        try:
            yield
        finally:
            if self._within:
                self._waited += time.perf_counter() - started

    @contextlib.contextmanager
    def loading(self) -> Iterator[None]:
        """Around what waits for data; outside of a step it does not count."""
        started = time.perf_counter()
        try:
            yield
        finally:
            if self._within:
                self._loaded += time.perf_counter() - started

    def take(self) -> RankTime:
        """Means per step since the last call."""
        steps = max(1, self._steps)
        taken = RankTime(self._total / steps, (self._total - self._waited) / steps, self._loaded / steps)
        self._reset()
        return taken


def gather(mine: RankTime, device: Any) -> list[RankTime]:
    """The times of all ranks, by rank. Collective over all ranks."""
    import torch
    import torch.distributed as dist

    values = torch.tensor([mine.step_seconds, mine.own_seconds, mine.data_seconds], dtype=torch.float64, device=device)
    all_values = [torch.empty_like(values) for _ in range(dist.get_world_size())]
    dist.all_gather(all_values, values)
    return [RankTime(*each.tolist()) for each in all_values]


class Stragglers:
    """The rule. It sees the times of all ranks and names a rank when it has become a straggler, once."""

    def __init__(self, settings: StragglerSettings, hosts: Sequence[str]) -> None:
        """Start without a past.

        Args:
            settings: When a rank counts as slow.
            hosts: Of each rank.
        """
        self._settings, self._hosts = settings, list(hosts)
        self._looks: deque[_Look] = deque(maxlen=settings.window)
        self.named: set[int] = set()
        """Ranks that are stragglers now."""

    def look(self, times: Sequence[RankTime]) -> list[Straggler]:
        """Add a look at all ranks; the stragglers that were none at the last look.

        Args:
            times: Of all ranks, by rank.
        """
        import numpy as np

        own = np.array([each.own_seconds for each in times])
        data = np.array([each.data_seconds for each in times])
        if len(times) < 2:
            return []
        self._looks.append(_Look(own, data, median_of_others(own)))
        if len(self._looks) < self._settings.window:
            return []
        ratios = np.stack([look.own / np.maximum(look.usual, 1e-9) for look in self._looks])
        middle = np.maximum(np.median(ratios, axis=0), 1e-9)
        # The noise is what a rank's own ratios differ by: a steady straggler does not raise it.
        noise = _TO_SIGMA * float(np.median(np.abs(ratios / middle - 1)))
        limit = max(self._settings.ratio, 1 + self._settings.sigmas * noise)
        often = (ratios > self._settings.ratio).mean(axis=0) >= self._settings.persistence
        fresh = {int(rank) for rank in np.flatnonzero(often & (middle > limit))} - self.named
        # Who is named recovers below the ratio alone, so that noise does not name one again and again.
        self.named = {rank for rank in self.named if middle[rank] > self._settings.ratio} | fresh
        return [self._straggler(rank, float(middle[rank])) for rank in sorted(fresh)]

    def _straggler(self, rank: int, ratio: float) -> Straggler:
        import numpy as np

        own, usual, data, others = (
            float(np.median(np.array(values)))
            for values in (
                [look.own[rank] for look in self._looks],
                [look.usual[rank] for look in self._looks],
                [look.data[rank] for look in self._looks],
                [np.median(np.delete(look.data, rank)) for look in self._looks],
            )
        )
        cause: Literal["computing", "data"] = "data" if data - others > (own - usual) / 2 else "computing"
        return Straggler(rank, self._hosts[rank], ratio, own, usual, cause)


@dataclass(frozen=True)
class _Look:
    """All ranks at one time, each ``[ranks]``, in seconds per step."""

    own: "Floats"
    data: "Floats"
    usual: "Floats"
    """Median of the other ranks."""


def median_of_others(values: "Floats") -> "Floats":
    """For each value the median of all others; shape ``[n]``, n at least 2."""
    import numpy as np

    order = np.argsort(values)
    ordered, places = values[order], np.empty(len(values), dtype=np.int64)
    places[order] = np.arange(len(values))
    rest = len(values) - 1

    def without(index: int) -> "Floats":
        """The value at an index of what is left, in order."""
        return ordered[index + (places <= index)]

    return (without((rest - 1) // 2) + without(rest // 2)) / 2
