"""A broadcast group as one of its ranks sees it: what is said in its store, and waits that end at a deadline."""

import contextlib
import json
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from typing import Any

from tatara.rl.broadcast_lane import Lane
from tatara.rl.protocol import Meeting
from tatara.rl.weight_sync import WeightsUnavailableError

POLL_SECONDS = 0.002
LOOK_SECONDS = 0.5
"""Pause between looks at whether the others are still there."""
_FAILED = "failed"


class BroadcastFailedError(WeightsUnavailableError):
    """A broadcast did not come to its end: the version is to be had as objects, or soon will be."""


class Group:
    """A group as one of its ranks sees it, with a deadline for what it does now."""

    def __init__(self, store: Any, meeting: Meeting, rank: int, timeout: float, look: Callable[[], None]) -> None:
        """Nothing is said yet.

        Args:
            store: The sender's.
            meeting: Of the group.
            rank: This process's.
            timeout: Longest time that a round may take, in seconds.
            look: Called now and then while something is waited for; raises when waiting is in vain.
        """
        from torch.distributed import PrefixStore

        self.store, self.meeting, self.rank = PrefixStore(meeting.group, store), meeting, rank
        self._timeout, self._look = timeout, look
        self._lane: Lane | None = None
        self.deadline = 0.0

    def begin(self, meeting: Meeting) -> None:
        """Start a round; from now on time counts."""
        self.meeting, self.deadline = meeting, time.monotonic() + self._timeout

    def form(self) -> Lane:
        """The group's lane; the first call meets the others."""
        if self._lane is None:
            size, left = len(self.meeting.members) + 1, max(1.0, self.deadline - time.monotonic())
            self._lane = Lane(self.meeting.backend, self.store, self.rank, size, left)
            self.result(self._lane.formed, "the group to form")
        return self._lane

    def say(self, key: str, value: Any = "") -> None:
        """Tell all of them, in this round."""
        self.store.set(self._key(key), json.dumps(value))

    def hear(self, key: str) -> Any:
        """What was said, when it was."""
        self.until([key], f"'{key}'")
        return json.loads(self.store.get(self._key(key)))

    def until(self, keys: Sequence[str], what: str) -> None:
        """Wait until all of it was said; ``what`` says in an error what is missing."""
        full = [self._key(key) for key in keys]
        self._wait(lambda: self.store.check(full), what)

    def result(self, future: "Future[Any]", what: str) -> Any:
        """Wait for a call of the lane; what it raised is raised here."""
        self._wait(future.done, what)
        return future.result()

    def forget(self, keys: Iterable[str]) -> None:
        """Remove what was said in a round that is over."""
        for key in keys:
            self.store.delete_key(self._key(key))

    def close(self, reason: str | None = None) -> None:
        """Leave, and tell the others why if something failed."""
        # When the store's owner is gone, the others see that themselves.
        with contextlib.suppress(RuntimeError):
            if reason is not None:
                self.store.set(_FAILED, reason)
        if self._lane is not None:
            self._lane.close()

    def _key(self, key: str) -> str:
        return f"{self.meeting.round}/{key}"

    def _wait(self, done: Callable[[], bool], what: str) -> None:
        looked = time.monotonic()
        while not done():
            now = time.monotonic()
            if now > self.deadline:
                raise BroadcastFailedError(f"a broadcast waited {self._timeout:g} s for {what}")
            if now - looked > LOOK_SECONDS:
                looked = now
                if self.store.check([_FAILED]):
                    raise BroadcastFailedError(self.store.get(_FAILED).decode())
                self._look()
            time.sleep(POLL_SECONDS)


def reason_of(error: Exception) -> str:
    """What torch or gloo says of a failure, in one line."""
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    # What gloo adds to each of its errors.
    return first.partition(" This is typically caused")[0]
