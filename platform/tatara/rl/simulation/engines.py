"""One rollout engine of the model: responses that grow together, one token each per step."""

import heapq

from tatara.rl.simulation.loop import EngineCurve


class SimulatedEngine:
    """Processor sharing: while n responses run, each grows by a token every ``start + each x n`` seconds.

    ``grown`` is the length that a response would have that ran since the beginning, so that one which starts at
    ``grown`` g with length l ends when ``grown`` reaches g + l, whoever comes and goes meanwhile. A response costs two
    operations on a heap, however long it is.
    """

    __slots__ = ("_curve", "at", "changes", "due", "fetching", "generated", "grown", "halted", "limit", "number",
                 "occupied", "running", "seconds", "speed", "taking", "version")  # fmt: skip

    def __init__(self, number: int, curve: EngineCurve, limit: int) -> None:
        self.number = number
        self._curve = curve
        self.running: list[tuple[float, int]] = []
        """Heap of (``grown`` at its end, its group)."""
        self.grown = 0.0
        self.at = 0.0
        """When it was brought up to date, seconds."""
        self.version = 0
        self.limit = limit
        """Groups that may have been started in all before the next one may not start here."""
        self.fetching = False
        """New weights are on their way."""
        self.due = False
        """They are here, and not loaded yet."""
        self.taking = False
        """Loads new weights."""
        self.speed = 1.0
        """Share of its own speed that others on the same cores leave it."""
        self.halted = False
        """The colocated learner has the devices."""
        self.changes = 0
        """An end that was foreseen before the last change no longer holds."""
        self.seconds = {"generate": 0.0, "wait": 0.0, "sync": 0.0, "halted": 0.0}
        self.generated = 0.0
        self.occupied = 0.0
        """Sum over responses of the seconds that they were here."""

    def advance(self, now: float) -> None:
        """Bring it up to date."""
        elapsed, count = now - self.at, len(self.running)
        self.at = now
        if elapsed <= 0:
            return
        self.occupied += elapsed * count
        if self.halted or self.taking:
            self.seconds["halted" if self.halted else "sync"] += elapsed
        elif count:
            self.seconds["generate"] += elapsed
            steps = elapsed * self.speed / self._curve.step(count)
            self.grown += steps
            self.generated += steps * count
        else:
            self.seconds["wait"] += elapsed

    def start(self, group: int, tokens: int) -> None:
        """Begin a response; the engine is up to date."""
        heapq.heappush(self.running, (self.grown + tokens, group))

    def next_end(self) -> float | None:
        """When the next response ends if nothing changes, seconds; None: nothing grows."""
        if not self.running or self.halted or self.taking:
            return None
        remaining = max(0.0, self.running[0][0] - self.grown)
        return self.at + remaining * self._curve.step(len(self.running)) / self.speed

    @property
    def working(self) -> bool:
        """Whether it computes something."""
        return self.taking or (bool(self.running) and not self.halted)

    def ended(self) -> list[int]:
        """Take out the responses that have ended, at the moment that `next_end` foresaw: their groups."""
        self.grown = max(self.grown, self.running[0][0])
        reached = self.grown * (1 + 1e-12)
        groups = []
        while self.running and self.running[0][0] <= reached:
            groups.append(heapq.heappop(self.running)[1])
        return groups
