"""The workers around the learner: starts them, sees them die, and puts others in their place."""

import contextlib
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tatara.errors import TataraError, own_error
from tatara.rl.client import BufferClient

_LOOK_SECONDS = 0.5
_STATUS_SECONDS = 2.0
_SPANS = 20_000
_KEPT = 200
_STEADY_SECONDS = 60.0
"""A worker that lived this long starts again at once when it dies; one that did not waits, longer each time."""
_MOST_WAIT_SECONDS = 30.0


@dataclass(frozen=True)
class Role:
    """One kind of worker.

    Attributes:
        name: What its workers are called, with a number after it.
        count: How many there are.
        start: Given a name, creates the actor.
        spans: Whether its ``status`` takes a time and tells the spans that ended after it.
    """

    name: str
    count: int
    start: Callable[[str], Any]
    spans: bool = False


@dataclass
class _Post:
    """A place for a worker, whoever fills it."""

    place: str
    role: Role
    lives: int = 0
    actor: Any = None
    running: Any = None
    since: float = 0.0
    """When it was started, by the monotonic clock."""
    not_before: float = 0.0
    failures: int = 0
    status: Any = None
    asked: float = 0.0
    """When its status was asked for, by the monotonic clock."""
    told: float = 0.0
    """End of its last span, in seconds since the epoch."""

    @property
    def name(self) -> str:
        """Of the worker that fills it: no two that ever were have the same."""
        return f"{self.place}.{self.lives}"


@dataclass
class Crew:
    """Rollout workers and reward workers of a run.

    A worker that dies is replaced by one of another name, and the buffer hands out again what it held. One that raises
    an error of ours ends the run, since starting it again cannot mend that.

    Attributes:
        incidents: What went wrong, the last ones.
        statuses: The last status of each worker, by name.
        spans: What each rollout worker did when: (start, end, what), the last ones.
    """

    roles: tuple[Role, ...]
    client: BufferClient
    max_failures: int
    log: Callable[[str], None]
    incidents: "deque[dict[str, Any]]" = field(default_factory=lambda: deque(maxlen=_KEPT))
    statuses: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    spans: "dict[str, deque[tuple[float, float, str]]]" = field(default_factory=dict)
    failures: int = 0
    _posts: list[_Post] = field(default_factory=list)
    _done: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> "Crew":
        self._posts = [_Post(f"{role.name}-{number}", role) for role in self.roles for number in range(role.count)]
        self._thread = threading.Thread(target=self._watch, name="crew", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        import ray

        self._done.set()
        assert self._thread is not None
        self._thread.join()
        for post in self._posts:
            if post.actor is not None:
                ray.kill(post.actor)

    def describe(self) -> str:
        """The workers in one line."""
        return ", ".join(f"{role.count} {role.name} worker{'s' if role.count > 1 else ''}" for role in self.roles)

    def _watch(self) -> None:
        try:
            while not self._done.is_set():
                for post in self._posts:
                    self._look_after(post)
                self._done.wait(_LOOK_SECONDS)
        except TataraError as error:
            self._give_up(str(error))
        except Exception:
            # A defect here must not look like a run that hangs.
            self._give_up(f"the supervision of workers failed: {traceback.format_exc(limit=3)}")

    def _look_after(self, post: _Post) -> None:
        import ray

        now = time.monotonic()
        if post.actor is None:
            if now >= post.not_before:
                post.lives, post.told = post.lives + 1, 0.0
                post.actor, post.since = post.role.start(post.name), now
                post.running = post.actor.run.remote()
            return
        ended, _ = ray.wait([post.running], timeout=0)
        if ended:
            self._replace(post, now)
            return
        if post.status is None and now - post.asked >= _STATUS_SECONDS:
            post.asked = now
            post.status = post.actor.status.remote(*([post.told] if post.role.spans else []))
        elif post.status is not None and ray.wait([post.status], timeout=0)[0]:
            # If it has died, `running` will say so.
            with contextlib.suppress(ray.exceptions.RayError):
                self._keep(post, ray.get(post.status))
            post.status = None

    def _keep(self, post: _Post, status: Mapping[str, Any]) -> None:
        self.statuses[post.name] = status
        # The last one is still going on: it comes whole when it has ended.
        ended = list(status["spans"])[:-1] if post.role.spans else []
        if ended:
            self.spans.setdefault(post.name, deque(maxlen=_SPANS)).extend(ended)
            post.told = ended[-1][1]

    def _replace(self, post: _Post, now: float) -> None:
        """Find out why a worker has ended, and start another."""
        import ray

        lived = now - post.since
        try:
            ray.get(post.running)
        except ray.exceptions.RayError as error:
            own = own_error(error)
            if own is not None:
                self._give_up(f"{post.name}: {own}")
                return
            reason = _one_line(error)
        else:
            reason = "it left before the run was over"
        self.failures += 1
        self.incidents.append({"time": time.time(), "worker": post.name, "reason": reason, "lived_s": round(lived, 1)})
        if 0 <= self.max_failures < self.failures:
            self._give_up(
                f"workers died {self.failures} times, more than max_worker_failures allows; last {post.name}: {reason}"
            )
            return
        self.log(f"{post.name} died ({reason}); another one is started ({self.failures} of {self.max_failures})")
        post.failures = 0 if lived > _STEADY_SECONDS else post.failures + 1
        post.not_before = now + min(_MOST_WAIT_SECONDS, 0.0 if post.failures <= 1 else 2.0 ** (post.failures - 2))
        self.client.release([post.name])
        post.actor = post.running = post.status = None

    def _give_up(self, reason: str) -> None:
        """Have the learner, which waits for the buffer, end with the reason."""
        self._done.set()
        # A buffer that does not take it has told the learner something itself.
        with contextlib.suppress(TataraError):
            self.client.fail(reason)


def _one_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
