"""The buffer as a rollout worker talks to it: answers come as events, so that generating never waits."""

import queue
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tatara.errors import EngineError, own_error

RETRY_SECONDS = (0.1, 0.2, 0.5, 1.0, 2.0)
"""Pauses after an unanswered call; the last one is repeated."""

Answered = Callable[[Any], None]
Event = Callable[[], None]
"""Something that happened elsewhere, to be dealt with in the worker's own thread."""


@dataclass
class _Question:
    """A call that has not been answered yet."""

    method: str
    arguments: tuple[Any, ...]
    answered: Answered
    wait: float
    first: float
    """When it was asked first, by the monotonic clock."""
    attempts: int = 0
    again: float | None = None
    """When to ask again; None while a call is under way."""


class BufferLink:
    """Asks the buffer, at most one question of a method at a time; for one thread.

    Ray starts a dead buffer again, and every question may be asked twice: a call that its death took away is repeated.
    """

    def __init__(self, name: str, patience: float, events: "queue.SimpleQueue[Event]") -> None:
        """Find the buffer.

        Args:
            name: Of its actor.
            patience: Time that an answer may take besides what was asked to wait, in seconds; long enough for the
                buffer to be started again.
            events: Where answers are put.

        Raises:
            EngineError: There is no such actor.
        """
        self._name, self._patience, self._events = name, patience, events
        self._open: dict[str, _Question] = {}
        self._handle = self._find()

    def asking(self, method: str) -> bool:
        """Whether a question of the method has not been answered yet."""
        return method in self._open

    def ask(self, method: str, *arguments: Any, answered: Answered, wait: float = 0.0) -> None:
        """Put a question.

        Args:
            method: Of the buffer.
            arguments: Its arguments.
            answered: What to do with the answer, in the thread that takes the events.
            wait: How long the buffer was asked to wait, in seconds.
        """
        assert method not in self._open, method
        self._open[method] = _Question(method, arguments, answered, wait, time.monotonic())
        self._call(self._open[method])

    def check(self) -> float:
        """Repeat what is due.

        Returns:
            Seconds until there may be something to repeat again.

        Raises:
            EngineError: The buffer has not answered for too long.
        """
        now, soonest = time.monotonic(), self._patience
        for question in list(self._open.values()):
            left = question.first + question.wait + self._patience - now
            if left <= 0:
                raise EngineError(
                    f"the buffer '{self._name}' did not answer `{question.method}` within "
                    f"{question.wait + self._patience:g} s: it is dead, or its machine is overloaded"
                )
            if question.again is not None and question.again <= now:
                question.again = None
                self._call(question)
            soonest = min(soonest, left, *([] if question.again is None else [question.again - now]))
        return max(soonest, 0.01)

    def _call(self, question: _Question) -> None:
        from ray.exceptions import RayActorError

        question.attempts += 1
        try:
            reference = getattr(self._handle, question.method).remote(*question.arguments)
        except RayActorError:
            self._repeat(question)
            return
        # The callback runs in a thread of Ray's; it only hands over.
        reference.future().add_done_callback(lambda future: self._events.put(lambda: self._ended(question, future)))

    def _ended(self, question: _Question, future: Any) -> None:
        from ray.exceptions import RayActorError

        error = future.exception()
        if isinstance(error, RayActorError):
            self._repeat(question)
            return
        if error is not None:
            # Ray wraps what the buffer raised.
            raise (own_error(error) or error) from error
        del self._open[question.method]
        question.answered(future.result())

    def _repeat(self, question: _Question) -> None:
        """Ask again after a pause."""
        pause = RETRY_SECONDS[min(question.attempts, len(RETRY_SECONDS)) - 1]
        question.again = time.monotonic() + pause

    def _find(self) -> Any:
        import ray

        try:
            return ray.get_actor(self._name)
        except ValueError:
            raise EngineError(f"there is no buffer '{self._name}' in the cluster: the run's driver is gone") from None
