"""The buffer for a rollout worker: answers come as events, so that generating never waits."""

import queue
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tatara.rl.asking import Question, find

Answered = Callable[[Any], None]
Event = Callable[[], None]
"""Something that happened elsewhere, to be dealt with in the worker's own thread."""


@dataclass
class _Open:
    """A question, and what to do with its answer."""

    question: Question
    answered: Answered
    arrived: bool = False
    """Whether an answer waits among the events: the worker may be too busy to take it for long."""


class BufferLink:
    """Asks the buffer, at most one question of a method at a time; for one thread.

    See `tatara.rl.asking` for what failures lead to.
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
        self._patience, self._events = patience, events
        self._open: dict[str, _Open] = {}
        self._handle = find(name)

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
        asked = _Open(Question(self._handle, method, arguments, wait, self._patience), answered)
        self._open[method] = asked
        self._call(asked)

    def check(self) -> float:
        """Repeat what is due.

        Returns:
            Seconds until there may be something to repeat again.

        Raises:
            EngineError: The buffer has not answered for too long.
        """
        now, soonest = time.monotonic(), self._patience
        for asked in list(self._open.values()):
            question = asked.question
            if asked.arrived:
                continue
            soonest = min(soonest, question.left())
            if question.again is not None and question.again <= now:
                self._call(asked)
            if question.again is not None:
                soonest = min(soonest, question.again - now)
        return max(soonest, 0.01)

    def _call(self, asked: _Open) -> None:
        asked.arrived = False
        promise = asked.question.ask()
        if promise is not None:
            promise.future().add_done_callback(lambda future: self._arrived(asked, future))

    def _arrived(self, asked: _Open, future: Any) -> None:
        """Runs in a thread of Ray's: only hands over."""
        asked.arrived = True
        self._events.put(lambda: self._ended(asked, future))

    def _ended(self, asked: _Open, future: Any) -> None:
        asked.arrived = False
        error = future.exception()
        if error is not None:
            asked.question.failed(error)
            return
        del self._open[asked.question.method]
        asked.answered(future.result())
