"""How idle this machine's cores were between two moments."""

import os
import threading
import time
from collections import deque
from dataclasses import dataclass

import psutil

_KEPT = 2_000


@dataclass(frozen=True)
class CoreTime:
    """What cores have counted up to a moment, in seconds of all of them together."""

    idle: float
    whole: float

    def idle_since(self, before: "CoreTime") -> float | None:
        """Share that was idle; None where no time went by."""
        whole = self.whole - before.whole
        return min(1.0, max(0.0, (self.idle - before.idle) / whole)) if whole > 0 else None


class CoreWatch:
    """Looks at the cores this process may use now and then, so that a moment that is over can be asked about."""

    def __init__(self) -> None:
        """Look once."""
        self._lock = threading.Lock()
        self._looks: deque[tuple[float, CoreTime]] = deque(maxlen=_KEPT)
        self.look()

    def look(self) -> None:
        """Note what the cores have counted."""
        every = psutil.cpu_times(percpu=True)
        mine = [every[core] for core in sorted(os.sched_getaffinity(0)) if core < len(every)]
        # Guests are counted in user time already.
        whole = sum(sum(core[:8]) for core in mine)
        with self._lock:
            self._looks.append((time.time(), CoreTime(sum(core.idle for core in mine), whole)))

    def at(self, moment: float) -> CoreTime:
        """What they had counted, between the two looks around it.

        Args:
            moment: Seconds since the epoch; one before the first look that is kept counts as that one.
        """
        if moment > self._looks[-1][0]:
            self.look()
        with self._lock:
            looks = list(self._looks)
        after = next((index for index, (when, _) in enumerate(looks) if when >= moment), len(looks) - 1)
        (start, first), (end, last) = looks[max(0, after - 1)], looks[after]
        share = min(1.0, max(0.0, (moment - start) / (end - start))) if end > start else 1.0
        return CoreTime(first.idle + share * (last.idle - first.idle), first.whole + share * (last.whole - first.whole))
