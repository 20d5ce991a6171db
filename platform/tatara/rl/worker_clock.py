"""Where the time of a worker goes: every second has one cause; and how fast it generates at each moment."""

import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import Literal

Cause = Literal["start", "generate", "wait", "environment", "sync"]
"""``wait``: nothing to do; ``environment``: all rollouts wait for one; ``sync``: weights are loaded and proved."""
SPANS = 20_000
"""Kept until they are asked for: the question may wait for long while an engine keeps Python busy."""
PACE_SECONDS = 0.1
"""Generating is measured in pieces of about this length: shorter than what the learner does at a time."""


@dataclass(frozen=True)
class Span:
    """A stretch of time with one cause."""

    start: float
    """Seconds since the epoch."""
    end: float
    what: Cause


@dataclass(frozen=True)
class Pace:
    """A piece of time in which an engine did nothing but generate."""

    start: float
    """Seconds since the epoch."""
    end: float
    steps: int
    """Of the engine."""
    tokens: int
    """Sampled."""


class WorkerClock:
    """Seconds by cause, the newest spans and paces; safe to read from another thread."""

    def __init__(self) -> None:
        """Start with the cause ``start``."""
        self._lock = threading.Lock()
        self._spans: deque[Span] = deque(maxlen=SPANS)
        self._paces: deque[Pace] = deque(maxlen=SPANS)
        self._seconds: dict[Cause, float] = {}
        self._cause: Cause = "start"
        self._since = time.time()
        self._measured = self._since
        self._steps = self._tokens = 0

    def switch(self, cause: Cause) -> None:
        """From now on the time belongs to a cause."""
        if cause == self._cause:
            return
        with self._lock:
            now = max(time.time(), self._since)
            self._spans.append(Span(self._since, now, self._cause))
            self._seconds[self._cause] = self._seconds.get(self._cause, 0.0) + now - self._since
            self._end_pace(now)
            self._cause, self._since = cause, now

    def stepped(self, tokens: int) -> None:
        """The engine has made a step.

        Args:
            tokens: That it sampled.
        """
        with self._lock:
            self._steps, self._tokens = self._steps + 1, self._tokens + tokens
            now = time.time()
            if now - self._measured >= PACE_SECONDS:
                self._end_pace(now)

    def _end_pace(self, now: float) -> None:
        if self._cause == "generate" and self._steps and now > self._measured:
            self._paces.append(Pace(self._measured, now, self._steps, self._tokens))
        self._measured, self._steps, self._tokens = now, 0, 0

    def seconds(self) -> dict[str, float]:
        """Seconds of each cause up to now."""
        with self._lock:
            found: dict[str, float] = {str(cause): value for cause, value in self._seconds.items()}
            found[self._cause] = found.get(self._cause, 0.0) + max(0.0, time.time() - self._since)
            return found

    def spans(self, since: float = 0.0) -> list[Span]:
        """Spans that ended after a time, in order; the last one is still going on."""
        with self._lock:
            current = Span(self._since, max(time.time(), self._since), self._cause)
            return [span for span in self._spans if span.end > since] + [current]

    def paces(self, since: float = 0.0) -> list[Pace]:
        """Pieces that ended after a time, in order."""
        with self._lock:
            return [pace for pace in self._paces if pace.end > since]
