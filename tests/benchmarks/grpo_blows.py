"""Which process of a GRPO run is hit when, by ``bench_grpo_chaos.py``."""

import random
from dataclasses import dataclass
from signal import SIGKILL, SIGSTOP, Signals

TITLES = {
    "rollout": "ray::RolloutWorker",
    "reward": "ray::RewardWorker",
    "buffer": "ray::Buffer",
    "learner": "ray::RayTrainWorker",
}
"""What the processes of each kind are called below the driver's."""
KINDS = (*TITLES, "driver")
CLOSE = 0.2
"""Share of kills that follow the one before within seconds, so that they hit the recovery."""


@dataclass
class Blow:
    """A signal to one process, and what followed.

    Attributes:
        batch: Sent once this many batches were trained.
        delay: And this many seconds have passed since.
        kind: Of the process.
        signal: SIGKILL, or SIGSTOP for ``pause`` seconds.
        pause: Seconds.
        at: When it was sent, in seconds since the epoch.
        back: Seconds until another process of the kind was there.
        trained: Seconds until the next batch was trained, and
        further: until one that never was before.
        gap: Longest time between two batches until the next blow, in seconds: a dead engine shows only when what it had
            made is used up.
        told: Whether all that was printed.
    """

    batch: int
    delay: float
    kind: str
    signal: Signals
    pause: float
    at: float = 0.0
    back: float | None = None
    trained: float | None = None
    further: float | None = None
    gap: float = 0.0
    told: bool = False

    def __str__(self) -> str:
        names = {"back": self.back, "next batch": self.trained, "new batch": self.further}
        told = ", ".join(f"{name} {'-' if value is None else f'{value:.1f} s'}" for name, value in names.items())
        return f"{self.signal.name} {self.kind:8} after batch {self.batch:4}: {told}"


def plan(kills: int, steps: int, stops: float, seed: int) -> list[Blow]:
    """Which process is hit when: each kind as often as any other, all over the run and the phases of a step."""
    draw = random.Random(seed)
    kinds = [KINDS[number % len(KINDS)] for number in range(kills)]
    draw.shuffle(kinds)
    blows: list[Blow] = []
    for number, kind in enumerate(kinds):
        batch = max(1, int(steps * (number + draw.random()) / (kills + 1)))
        if blows and draw.random() < CLOSE:
            batch = blows[-1].batch
        stopped = kind != "driver" and draw.random() < stops
        pause = draw.uniform(2.0, 15.0) if stopped else 0.0
        blows.append(Blow(batch, draw.uniform(0.0, 3.0), kind, SIGSTOP if stopped else SIGKILL, pause))
    return sorted(blows, key=lambda blow: blow.batch)
