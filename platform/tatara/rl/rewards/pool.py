"""Reward functions in processes of their own: each value within its time, whatever the function does."""

import os
import pickle
import threading
from collections import Counter, defaultdict
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue

from tatara.errors import TataraError
from tatara.rl.rewards.child import PATIENCE, Child, EndedError, SlowError
from tatara.rl.rewards.completion import Completion, Failure, Result
from tatara.rl.rewards.functions import FUNCTIONS, WRONG_WHEN_STUCK
from tatara.rl.rewards.kinds import RewardConfig


class FunctionPool:
    """Evaluates the rewards that are functions; may be used by several threads at a time.

    Attributes:
        seconds: Time spent in each reward so far, in seconds.
        restarts: Processes that had to be replaced, by reward.
        stuck: Values of rewards such as ``math`` that are 0 because time ran out.
    """

    def __init__(self, rewards: Mapping[str, RewardConfig], processes: int, memory: int, start_seconds: float) -> None:
        """Prepare; `start` starts the processes.

        Args:
            rewards: All rewards; those that are no functions are left alone.
            processes: How many work at a time.
            memory: Bytes that one of them may allocate.
            start_seconds: Time to start one, in seconds.
        """
        self._rewards = {name: config for name, config in rewards.items() if config.kind in FUNCTIONS}
        self._memory, self._start_seconds = memory, start_seconds
        self._slots: SimpleQueue[Child | None] = SimpleQueue()
        self._threads = ThreadPoolExecutor(processes, thread_name_prefix="reward")
        self._processes = processes
        self._lock = threading.Lock()
        self.seconds: dict[str, float] = defaultdict(float)
        self.restarts: Counter[str] = Counter()
        self.stuck: Counter[str] = Counter()

    def start(self) -> None:
        """Start the processes, which build and check the rewards.

        Raises:
            ConfigError: A reward cannot be made; the line names it.
            TataraError: A process did not start within its time.
        """
        starting = [self._threads.submit(self._child) for _ in range(self._processes)]
        for promise in starting:
            self._slots.put(promise.result())

    def submit(self, completion: Completion) -> "Future[dict[str, Result]]":
        """Promise the value of each of these rewards for a completion, or why there is none."""
        return self._threads.submit(self._score, completion)

    def close(self) -> None:
        """End the processes; call it when nothing is under way."""
        self._threads.shutdown(wait=True, cancel_futures=True)
        while not self._slots.empty():
            child = self._slots.get()
            if child is not None:
                child.kill()

    def _child(self) -> Child:
        settings = (os.getpid(), self._memory)
        # Called in a thread of the pool: the kernel ends the process with the thread that started it.
        return Child(pickle.dumps(self._rewards), *settings, seconds=self._start_seconds)

    def _score(self, completion: Completion) -> dict[str, Result]:
        child = self._slots.get()
        results: dict[str, Result] = {}
        try:
            while waiting := [name for name in self._rewards if name not in results]:
                child = child or self._child()
                name = waiting[0]
                try:
                    child.send(pickle.dumps((completion, waiting)))
                    for name in waiting:
                        results[name] = self._receive(child, name)
                except (SlowError, EndedError) as error:
                    how = child.kill(PATIENCE if isinstance(error, EndedError) else 0.0)
                    child = None
                    results[name] = self._lost(name, error, how)
        except BaseException:
            # Nobody knows what its pipes hold now.
            if child is not None:
                child.kill()
            child = None
            raise
        finally:
            self._slots.put(child)
        return results

    def _receive(self, child: Child, name: str) -> Result:
        reply = child.receive(self._rewards[name].timeout)
        if reply.get("name") != name:
            raise EndedError("answered what was not asked")
        with self._lock:
            self.seconds[name] += reply["seconds"]
        return Failure(reply["error"]) if "error" in reply else float(reply["value"])

    def _lost(self, name: str, error: TataraError, how: str) -> Result:
        config = self._rewards[name]
        with self._lock:
            self.restarts[name] += 1
            if isinstance(error, SlowError):
                self.seconds[name] += config.timeout
                self.stuck[name] += config.kind in WRONG_WHEN_STUCK
        if isinstance(error, SlowError):
            return 0.0 if config.kind in WRONG_WHEN_STUCK else Failure(f"took longer than {config.timeout:g} s")
        return Failure(f"its process {how}")
