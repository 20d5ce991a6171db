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
from tatara.rl.worker_death import why

_LOOK_SECONDS = 0.5
_STATUS_SECONDS = 2.0
_LAST_SECONDS = 10.0
"""Longest wait for the last status of all workers: one that computes for so long at a time has no newer one."""
_SPANS = 20_000
_KEPT = 200
_STEADY_SECONDS = 60.0
"""A worker that lived this long, or finished something, starts again at once when it dies; others wait, longer each
time."""
_MOST_WAIT_SECONDS = 30.0
_STARTS = 3
"""A place whose worker died this often before any of its kind served is given up: they cannot start here."""


@dataclass(frozen=True)
class Role:
    """One kind of worker.

    Attributes:
        name: What its workers are called, with a number after it.
        count: How many there are.
        start: Given a name, creates the actor.
        spans: Whether its ``status`` takes two times, and tells the spans that ended after the one and the paces that
            ended after the other.
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
    told: tuple[float, float] = (0.0, 0.0)
    """Ends of its last span and its last pace, in seconds since the epoch."""

    def ask(self, now: float) -> None:
        """Ask for its status, unless it has not answered the last question."""
        if self.status is None:
            self.asked = now
            self.status = self.actor.status.remote(*(self.told if self.role.spans else ()))

    @property
    def name(self) -> str:
        """Of the worker that fills it: no two that ever were have the same."""
        return f"{self.place}.{self.lives}"


@dataclass
class Crew:
    """Rollout workers and reward workers of a run.

    A worker that dies or hangs is replaced by one of another name, and the buffer hands out again what it held. One
    that raises an error of ours ends the run, since starting it again cannot mend that.

    Attributes:
        incidents: What went wrong, the last ones.
        statuses: The last status of each worker, by name.
        spans: What each rollout worker did when: (start, end, what), the last ones.
        paces: How fast each generated when: (start, end, steps, tokens), the last ones.
        looks: Called twice a second by the thread that watches the workers.
    """

    roles: tuple[Role, ...]
    client: BufferClient
    max_failures: int
    log: Callable[[str], None]
    silence: float = 600.0
    """Longest time that a worker may leave a question unanswered, in seconds."""
    incidents: "deque[dict[str, Any]]" = field(default_factory=lambda: deque(maxlen=_KEPT))
    statuses: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    spans: "dict[str, deque[tuple[float, float, str]]]" = field(default_factory=dict)
    paces: "dict[str, deque[tuple[float, float, int, int]]]" = field(default_factory=dict)
    looks: list[Callable[[], None]] = field(default_factory=list)
    failures: int = 0
    _open: dict[str, tuple[float, float, str]] = field(default_factory=dict)
    """What each rollout worker was doing when it said so last."""
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

        self._end()
        for post in self._posts:
            if post.actor is not None:
                ray.kill(post.actor)

    def last_words(self) -> None:
        """Ask every worker once more, and watch them no longer: the run is over, and what they did is looked at.

        Returns when all have answered, or after a bounded wait.
        """
        import ray

        self._end()
        deadline = time.monotonic() + _LAST_SECONDS
        alive = [post for post in self._posts if post.actor is not None]
        for late in (True, False):
            # What was asked before the end is answered, but no answer to what is asked now.
            asked = [post for post in alive if late == (post.status is not None)]
            for post in asked:
                post.ask(time.monotonic())
            if asked:
                left = max(0.0, deadline - time.monotonic())
                ray.wait([post.status for post in asked], num_returns=len(asked), timeout=left)
            for post in asked:
                self._hear(post)
        for name, span in self._open.items():
            self.spans[name].append(span)

    def describe(self) -> str:
        """The workers in one line."""
        return ", ".join(f"{role.count} {role.name} worker{'s' if role.count > 1 else ''}" for role in self.roles)

    def _watch(self) -> None:
        try:
            while not self._done.is_set():
                for look in self.looks:
                    look()
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
                post.lives, post.told = post.lives + 1, (0.0, 0.0)
                post.actor, post.since = post.role.start(post.name), now
                post.running = post.actor.run.remote()
            return
        ended, _ = ray.wait([post.running], timeout=0)
        if ended:
            self._replace(post, now)
            return
        if post.status is None:
            if now - post.asked >= _STATUS_SECONDS:
                post.ask(now)
            return
        self._hear(post)
        if post.status is not None and now - post.asked > self.silence:
            self.log(f"{post.name} has not answered for {self.silence:g} s and is ended")
            # What hangs may not hear that it is to end: `running` fails only when the process is gone.
            ray.kill(post.actor)
            self._replace(post, now, f"it did not answer for worker_timeout={self.silence:g} s")

    def _hear(self, post: _Post) -> None:
        """Keep the answer of a worker that was asked, if it has come."""
        import ray

        if ray.wait([post.status], timeout=0)[0]:
            # If it has died, `running` will say so.
            with contextlib.suppress(ray.exceptions.RayError):
                self._keep(post, ray.get(post.status))
            post.status = None

    def _keep(self, post: _Post, status: Mapping[str, Any]) -> None:
        self.statuses[post.name] = status
        if not post.role.spans:
            return
        # The last one is still going on: it comes whole when it has ended.
        *ended, self._open[post.name] = status["spans"]
        paces = status["paces"]
        self.spans.setdefault(post.name, deque(maxlen=_SPANS)).extend(ended)
        self.paces.setdefault(post.name, deque(maxlen=_SPANS)).extend(paces)
        post.told = (ended[-1][1] if ended else post.told[0], paces[-1][1] if paces else post.told[1])

    def _end(self) -> None:
        """Watch the workers no longer."""
        self._done.set()
        assert self._thread is not None
        self._thread.join()

    def _replace(self, post: _Post, now: float, reason: str | None = None) -> None:
        """Find out why a worker has ended, unless that is known, and start another."""
        import ray

        lived = now - post.since
        try:
            if reason is None:
                ray.get(post.running)
                reason = "it left before the run was over"
        except ray.exceptions.RayError as error:
            own = own_error(error)
            if own is not None:
                self._give_up(f"{post.name}: {own}")
                return
            reason = why(error)
        self.failures += 1
        self.incidents.append({"time": time.time(), "worker": post.name, "reason": reason, "lived_s": round(lived, 1)})
        if 0 <= self.max_failures < self.failures:
            self._give_up(
                f"workers died {self.failures} times, more than max_worker_failures allows; last {post.name}: {reason}"
            )
            return
        if post.lives >= _STARTS and not self._served(f"{post.role.name}-"):
            self._give_up(f"{post.place} died {post.lives} times before it served: {reason}")
            return
        self.log(f"{post.name} died ({reason}); another one is started ({self.failures} of {self.max_failures})")
        post.failures = 0 if lived > _STEADY_SECONDS or self._served(post.name) else post.failures + 1
        post.not_before = now + min(_MOST_WAIT_SECONDS, 0.0 if post.failures <= 1 else 2.0 ** (post.failures - 2))
        self.client.release([post.name])
        post.actor = post.running = post.status = None

    def _served(self, prefix: str) -> bool:
        """Whether a worker whose name begins like this ever finished something."""
        told = [status for name, status in self.statuses.items() if name.startswith(prefix)]
        return any(status.get("rollouts") or status.get("scored") for status in told)

    def _give_up(self, reason: str) -> None:
        """Have the learner, which waits for the buffer, end with the reason."""
        self._done.set()
        # A buffer that does not take it has told the learner something itself.
        with contextlib.suppress(TataraError):
            self.client.fail(reason)
