"""Which share of the devices should generate, and how busy a cluster is, by its size and the bound on staleness."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from tatara.errors import LayoutError
from tatara.rl.simulation.accelerators import Workload
from tatara.rl.simulation.events import simulate
from tatara.rl.simulation.outcome import Outcome

_TWIN = 32
"""Devices at most on which splits are tried: a larger cluster's batch, engines and learner shrunk alike."""
_PARTS = 16
_TRIAL_BATCHES = 6


@dataclass(frozen=True)
class Point:
    """A simulated cluster.

    Attributes:
        devices: All of them.
        staleness: The bound.
        rollout_devices: That generate.
        learner_devices: That train; colocated, the same ones.
        outcome: What came of it.
    """

    devices: int
    staleness: int
    rollout_devices: int
    learner_devices: int
    outcome: Outcome

    @property
    def tokens_per_device(self) -> float:
        """Tokens of responses trained on per second and device."""
        return self.outcome.tokens_per_second / self.devices


def splits(work: Workload, devices: int) -> list[tuple[int, int]]:
    """Ways to share out devices to (rollouts, learner), at most 15, the fewest for rollouts first.

    Raises:
        LayoutError: There is none; the message says how many devices would do.
    """
    smallest = work.smallest_learner
    if work.colocated:
        if devices >= max(smallest, work.tp) and devices % work.tp == 0:
            return [(devices, devices)]
        raise LayoutError(f"{devices} devices do not hold the learner ({smallest}) or whole engines of {work.tp}")
    unit = max(work.tp, -(-devices // (_PARTS * work.tp)) * work.tp)
    found = [(count, devices - count) for count in range(unit, devices, unit) if devices - count >= smallest]
    if not found:
        raise LayoutError(
            f"{devices} {work.hardware.name} are too few: the learner needs {smallest} and an engine {work.tp}; "
            f"take {smallest + work.tp} or more, or --colocated"
        )
    return found


def best_split(work: Workload, devices: int, staleness: int, seed: int = 0) -> tuple[int, int]:
    """The split with the most batches per second.

    Tries every other one and the neighbours of the best of these: by chance of the lengths the speed has more than one
    peak where the longest response decides it.
    """
    choices = splits(work, devices)
    shrink = devices // _TWIN if devices % _TWIN == 0 else 1
    if shrink == 0 or any(count % (shrink * work.tp) for choice in choices for count in choice):
        shrink = 1
    groups = max(1, round(devices // shrink * work.groups_per_device))

    def speed(index: int) -> float:
        rollout, learner = choices[index]
        loop = work.loop(rollout // shrink, learner // shrink, staleness, groups)
        return simulate(loop, _TRIAL_BATCHES, seed=seed).batches_per_second

    speeds = {index: speed(index) for index in range(0, len(choices), 2)}
    best = max(speeds, key=lambda index: speeds[index])
    speeds |= {index: speed(index) for index in (best - 1, best + 1) if 0 <= index < len(choices)}
    return choices[max(speeds, key=lambda index: speeds[index])]


def sweep(
    work: Workload,
    devices: Iterable[int],
    staleness: Iterable[int],
    batches: int = 6,
    seed: int = 0,
    tell: Callable[[Point], None] | None = None,
) -> list[Point]:
    """Simulate each size of the cluster under each bound, at its best split.

    Args:
        work: What is trained on what.
        devices: Sizes of the cluster.
        staleness: Bounds.
        batches: To measure in each.
        seed: Of the lengths.
        tell: Called with each point as soon as it is known.

    Raises:
        LayoutError: A cluster is too small.
    """
    points = []
    bounds = list(staleness)
    for count in devices:
        for bound in bounds:
            rollout, learner = best_split(work, count, bound, seed)
            outcome = simulate(work.loop(rollout, learner, bound), batches, seed=seed)
            point = Point(count, bound, rollout, learner, outcome)
            points.append(point)
            if tell is not None:
                tell(point)
    return points
