"""A question to the buffer, and what each of its failures leads to; how an answer is waited for is the caller's matter.

- What the buffer raised is raised here: an error of ours as it is.
- While Ray starts the buffer again the question is repeated: every question may arrive twice.
- A buffer that is dead for good (its driver has ended it, or has died) ends the asking at once.
- An answer that takes longer than the buffer was asked to wait and the patience together ends it too.
"""

import time
from dataclasses import dataclass, field
from typing import Any

from tatara.errors import EngineError, own_error

RETRY_SECONDS = (0.1, 0.2, 0.5, 1.0, 2.0)
"""Pauses after an unanswered call; the last one is repeated."""


def find(name: str) -> Any:
    """The handle of a buffer.

    Raises:
        EngineError: There is no such actor.
    """
    import ray

    try:
        return ray.get_actor(name)
    except ValueError:
        raise EngineError(f"there is no buffer '{name}' in the cluster: the run's driver is gone") from None


@dataclass
class Question:
    """A call that has not been answered yet."""

    handle: Any
    """Of the buffer."""
    method: str
    arguments: tuple[Any, ...]
    wait: float
    """How long the buffer was asked to wait, in seconds."""
    patience: float
    """Time that the answer may take besides, in seconds; long enough for the buffer to be started again."""
    first: float = field(default_factory=time.monotonic)
    """When it was asked first, by the monotonic clock."""
    attempts: int = 0
    again: float | None = None
    """When to ask again; None while a call is under way."""

    def ask(self) -> Any:
        """Call the buffer; returns the promise of its answer, None if it is away: then `again` says when to ask."""
        from ray.exceptions import RayError

        self.attempts, self.again = self.attempts + 1, None
        try:
            return getattr(self.handle, self.method).remote(*self.arguments)
        except RayError as error:
            self.failed(error)
            return None

    def left(self) -> float:
        """Seconds that the answer may still take.

        Raises:
            EngineError: It is overdue.
        """
        allowed = self.wait + self.patience
        left = self.first + allowed - time.monotonic()
        if left <= 0:
            raise EngineError(
                f"the buffer did not answer `{self.method}` within {allowed:g} s: "
                "it cannot be started again, or its machine is overloaded"
            )
        return left

    def failed(self, error: BaseException) -> None:
        """Decide what a call that brought an exception leads to; sets `again` if it is to be repeated.

        Raises:
            TataraError: The buffer raised it.
            EngineError: The buffer is dead for good.
        """
        from ray.exceptions import ActorDiedError, RayActorError

        own = own_error(error)
        if own is not None:
            raise own from error
        if isinstance(error, ActorDiedError):
            cause = [line.strip() for line in str(error).splitlines() if line.strip()][-1]
            raise EngineError(f"the buffer is dead for good, so `{self.method}` gets no answer: {cause}") from error
        if not isinstance(error, RayActorError):
            raise error
        self.again = time.monotonic() + RETRY_SECONDS[min(self.attempts, len(RETRY_SECONDS)) - 1]
