"""Waiting for something to change, within one event loop."""

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class Changes:
    """Wakes everybody who waits, whatever it was that changed: each looks whether there is an answer for it now."""

    def __init__(self) -> None:
        self._next = asyncio.Event()

    def tell(self) -> None:
        """Something changed."""
        self._next.set()
        self._next = asyncio.Event()

    async def until(self, ready: Callable[[], T | None], wait: float) -> T | None:
        """Ask now and after every change.

        Args:
            ready: Answers, or returns None; what it raises ends the wait.
            wait: Seconds at most.

        Returns:
            The first answer; None if there was none in time.
        """
        end = time.monotonic() + max(0.0, wait)
        while True:
            # Nothing else runs between the question and the wait, so no change is missed.
            found = ready()
            left = end - time.monotonic()
            if found is not None or left <= 0:
                return found
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._next.wait(), left)
