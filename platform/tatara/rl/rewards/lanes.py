"""Ways to compute rewards side by side: each takes a completion and promises values."""

import threading
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

from tatara.rl.rewards.completion import Completion, Result

Results = dict[str, Result]


class Lane(Protocol):
    """Computes some of the rewards."""

    seconds: dict[str, float]
    """Time spent in each reward so far, in seconds."""

    def submit(self, completion: Completion) -> "Future[Results]":
        """Promise its rewards of a completion; an exception in the promise ends the run."""

    def close(self) -> None:
        """Let go of processes, threads and connections; nothing may be under way."""


class ThreadLane:
    """A reward that waits for somebody else (a sandbox, a server), in threads."""

    def __init__(
        self, name: str, function: Callable[[Completion], Result], threads: int, end: Callable[[], None] | None = None
    ) -> None:
        """Prepare the lane.

        Args:
            name: Of the reward.
            function: Computes it; may be called by so many threads at a time.
            threads: How many.
            end: Called when the lane is closed.
        """
        self._name, self._function, self._end = name, function, end
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix=f"reward-{name}")
        self._lock = threading.Lock()
        self.seconds: dict[str, float] = defaultdict(float)

    def submit(self, completion: Completion) -> "Future[Results]":
        """Promise the reward of a completion."""
        return self._threads.submit(self._run, completion)

    def close(self) -> None:
        """End the threads."""
        if self._end is not None:
            self._end()
        self._threads.shutdown(wait=True, cancel_futures=True)

    def _run(self, completion: Completion) -> Results:
        began = time.perf_counter()
        result = self._function(completion)
        with self._lock:
            self.seconds[self._name] += time.perf_counter() - began
        return {self._name: result}


class BatchLane:
    """A reward that is computed for several completions at once, by one thread that also prepares it."""

    def __init__(
        self,
        name: str,
        start: Callable[[], Callable[[list[Completion]], list[Result]]],
        batch: int,
        end: Callable[[], None] | None = None,
    ) -> None:
        """Prepare the lane; the first completions wait until it is ready.

        Args:
            name: Of the reward.
            start: Called once in the lane's thread; returns what computes a batch.
            batch: Completions at once.
            end: Called when the lane is closed.
        """
        self._name, self._batch, self._end = name, batch, end
        self._waiting: list[tuple[Completion, Future[Results]]] = []
        self._lock = threading.Lock()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"reward-{name}")
        self._ready = self._thread.submit(start)
        self.seconds: dict[str, float] = defaultdict(float)

    def start(self) -> None:
        """Wait until it is ready.

        Raises:
            TataraError: It cannot be made ready.
        """
        self._ready.result()

    def submit(self, completion: Completion) -> "Future[Results]":
        """Promise the reward of a completion; those that come while a batch is computed form the next one."""
        promise: Future[Results] = Future()
        with self._lock:
            self._waiting.append((completion, promise))
        self._thread.submit(self._run)
        return promise

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown(wait=True, cancel_futures=True)
        if self._end is not None:
            self._end()

    def _run(self) -> None:
        with self._lock:
            taken, self._waiting = self._waiting[: self._batch], self._waiting[self._batch :]
        if not taken:
            return
        began = time.perf_counter()
        try:
            results = self._ready.result()([completion for completion, _ in taken])
        # Whoever asked gets it, whatever it is.
        except BaseException as error:
            for _, promise in taken:
                promise.set_exception(error)
            return
        self.seconds[self._name] += time.perf_counter() - began
        for (_, promise), result in zip(taken, results, strict=True):
            promise.set_result({self._name: result})
