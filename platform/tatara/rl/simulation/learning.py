"""The learner of the model: it waits for a batch, trains, and gives out new weights."""


class SimulatedLearner:
    """Trains for the seconds that a batch needs, more where others work on the same cores."""

    __slots__ = ("at", "began", "changes", "free", "left", "seconds", "speed", "working")

    def __init__(self) -> None:
        self.seconds = {"train": 0.0, "wait": 0.0, "sync": 0.0}
        self.free: float | None = 0.0
        """Since when it waits; None: it trains or publishes."""
        self.working = False
        """From having a batch to having given out what it made of it."""
        self.left = 0.0
        """Seconds that it would need alone to the end of the batch, at ``at``."""
        self.at: float | None = None
        """When that was brought up to date; None: it does not train."""
        self.began = 0.0
        self.speed = 1.0
        self.changes = 0
        """An end that was foreseen before the last change no longer holds."""

    def take(self, now: float, handout: float) -> None:
        """A batch is on its way to it."""
        assert self.free is not None
        self.seconds["wait"] += now - self.free + handout
        self.free = None

    def begin(self, now: float, seconds: float) -> None:
        """Train; alone it takes so many seconds."""
        self.began = self.at = now
        self.left, self.working = seconds, True

    def slow(self, now: float, speed: float) -> None:
        """From now on it has this share of its own speed."""
        if self.at is not None:
            self.left = max(0.0, self.left - (now - self.at) * self.speed)
            self.at = now
        self.speed = speed

    def next_end(self) -> float:
        """When it has trained if nothing changes."""
        assert self.at is not None
        return self.at + self.left / self.speed

    def trained(self, now: float, publish: float) -> None:
        """It has new weights, and gives them out."""
        self.seconds["train"] += now - self.began
        self.seconds["sync"] += publish
        self.at = None

    def published(self, now: float) -> None:
        """They are out."""
        self.working = False
        self.free = now
