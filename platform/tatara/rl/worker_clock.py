"""Where the time of a worker goes: every second has one cause."""

import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import Literal

Cause = Literal["start", "generate", "wait", "environment", "sync"]
"""``wait``: nothing to do; ``environment``: all rollouts wait for one; ``sync``: weights are loaded and proved."""
SPANS = 2_000


@dataclass(frozen=True)
class Span:
    """A stretch of time with one cause."""

    start: float
    """Seconds since the epoch."""
    end: float
    what: Cause


class WorkerClock:
    """Seconds by cause and the newest spans; safe to read from another thread."""

    def __init__(self) -> None:
        """Start with the cause ``start``."""
        self._lock = threading.Lock()
        self._spans: deque[Span] = deque(maxlen=SPANS)
        self._seconds: dict[Cause, float] = {}
        self._cause: Cause = "start"
        self._since = time.time()

    def switch(self, cause: Cause) -> None:
        """From now on the time belongs to a cause."""
        if cause == self._cause:
            return
        with self._lock:
            now = max(time.time(), self._since)
            self._spans.append(Span(self._since, now, self._cause))
            self._seconds[self._cause] = self._seconds.get(self._cause, 0.0) + now - self._since
            self._cause, self._since = cause, now

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
