"""Wall time, CPU time and peak memory of a command with everything that it starts."""

import os
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

_INTERVAL = 0.25


@dataclass(frozen=True)
class Measured:
    """What a command took.

    Attributes:
        wall: Seconds.
        cpu: CPU seconds, of every process in the tree, daemons that left it included.
        peak: Largest sum of proportional set sizes, bytes.
        peak_process: Largest resident set of one process, bytes.
    """

    wall: float
    cpu: float
    peak: int
    peak_process: int


def measure(command: Sequence[str | Path], env: Mapping[str, str] | None = None, log: Path | None = None) -> Measured:
    """Run a command to its end.

    Processes are found by a mark in their environment, so that those that detach count too. CPU seconds are sampled
    four times a second, and of processes that are waited for the kernel's own sum is taken where that is larger.

    Raises:
        subprocess.CalledProcessError: It failed.
    """
    mark = f"{os.getpid()}-{time.monotonic_ns()}"
    environment = {**os.environ, **(env or {}), "TATARA_BENCH_MARK": mark}
    before = os.times()
    started = time.monotonic()
    out = log.open("w") if log else subprocess.DEVNULL
    process = subprocess.Popen([str(part) for part in command], env=environment, stdout=out, stderr=subprocess.STDOUT)
    watch = _Watch(mark)
    watch.start()
    code = process.wait()
    wall = time.monotonic() - started
    watch.stop()
    after = os.times()
    waited = (after.children_user - before.children_user) + (after.children_system - before.children_system)
    if code:
        raise subprocess.CalledProcessError(code, command)
    return Measured(wall, max(watch.cpu, waited), watch.peak, watch.peak_process)


class _Watch(threading.Thread):
    def __init__(self, mark: str) -> None:
        super().__init__(daemon=True)
        self._mark = mark
        self._done = threading.Event()
        self._members: dict[int, psutil.Process] = {}
        self._others: set[tuple[int, float]] = set()
        self._seconds: dict[tuple[int, float], float] = {}
        self.peak = 0
        self.peak_process = 0

    @property
    def cpu(self) -> float:
        """CPU seconds of every process seen."""
        return sum(self._seconds.values())

    def run(self) -> None:
        while not self._done.wait(_INTERVAL):
            self._sample()

    def stop(self) -> None:
        self._sample()
        self._done.set()
        self.join()

    def _sample(self) -> None:
        total = 0
        for process in psutil.process_iter():
            try:
                key = (process.pid, process.create_time())
                if key in self._others:
                    continue
                if key not in self._seconds and process.environ().get("TATARA_BENCH_MARK") != self._mark:
                    self._others.add(key)
                    continue
                times = process.cpu_times()
                self._seconds[key] = times.user + times.system
                memory = process.memory_full_info()
                total += memory.pss
                self.peak_process = max(self.peak_process, memory.rss)
            except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
                continue
        self.peak = max(self.peak, total)
