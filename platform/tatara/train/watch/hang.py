"""Hang guard: a training step that does not end within a limit ends the attempt, and says who is where.

Every rank has one. Where training passes, it says so (`HangGuard.beat`); a thread watches. When nothing was said for
the limit, the thread writes what every Python thread is doing, waits for the other ranks to do the same, and ends the
process; Ray Train then starts the workers again. The lowest rank that got so far writes one line about all of them.

The thread needs Python's lock (GIL). Collectives release it while they wait. Where a C call keeps it, the watchdog of
`faulthandler`, which needs no lock, still writes the stacks and ends the process a little later.
"""

import contextlib
import faulthandler
import mmap
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from tatara.train.watch.events import EventWriter
from tatara.train.watch.hang_report import (
    BEAT_BYTES,
    Beat,
    Dump,
    HangDirectory,
    event_of,
    innermost,
    neighbours,
    summarise,
)

EXIT_CODE = 70
_MOST_POLL = 1.0
_PY_SPY_SECONDS = 10.0


class HangGuard:
    """Ends this process when training stands still. One per rank, and one per process."""

    def __init__(
        self,
        limit_seconds: float,
        directory: Path,
        rank: int,
        world: int,
        *,
        first_limit_seconds: float | None = None,
        grace_seconds: float = 10.0,
        attempt: str = "0",
        events: Path | None = None,
        native_stacks: bool = True,
    ) -> None:
        """Set up; `start` makes it watch.

        Args:
            limit_seconds: Longest time between two beats.
            directory: Where to leave what is found; shared by all ranks, on whatever host.
            rank: Of this process.
            world: Number of ranks.
            first_limit_seconds: The same until a beat two steps after the first one (which may be of the step that was
                done before, to say that training starts): the first step compiles kernels and opens data.
            grace_seconds: How long to wait for the other ranks to find out too.
            attempt: Of the run; the same for all ranks, another one after each restart.
            events: Where the one line goes as a ``hang`` event.
            native_stacks: Also let py-spy, where it is installed, write the stacks below Python's; takes seconds.
        """
        self._limit, self._first_limit = limit_seconds, first_limit_seconds or limit_seconds
        self._rank, self._world, self._grace, self._events = rank, world, grace_seconds, events
        self._native_stacks = native_stacks
        self._files = HangDirectory(directory, attempt)
        self._host, self._pid = socket.gethostname(), os.getpid()
        self._poll = min(_MOST_POLL, limit_seconds / 10)
        self._first_step: int | None = None
        self._limit_now = self._first_limit
        self._beaten = time.monotonic()
        self._last = Beat(rank, self._host, self._pid, 0, "start")
        self._watched = threading.get_ident()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="hang-guard", daemon=True)
        self._map: mmap.mmap | None = None
        self._last_words: Any = None

    def start(self) -> "HangGuard":
        """Watch from now on."""
        self._files.directory.mkdir(parents=True, exist_ok=True)
        path = self._files.beat(self._rank)
        path.write_bytes(self._last.encode())
        # Mapped to memory: a beat is no system call, and what a stopped process said last is there for its neighbours.
        with open(path, "r+b") as stream:
            self._map = mmap.mmap(stream.fileno(), BEAT_BYTES)
        self._last_words = open(self._files.dump(self._rank, "last.txt"), "w", encoding="utf-8")  # noqa: SIM115
        self._beaten = time.monotonic()
        self._thread.start()
        return self

    def beat(self, step: int, where: str, limit_seconds: float | None = None) -> None:
        """Say that training got here; takes microseconds.

        Args:
            step: That is worked on, counted as in the events.
            where: What comes next, such as ``forward``; at most 80 characters.
            limit_seconds: For what comes next, where it takes longer than a step may (loading, exporting).
        """
        if self._first_step is None:
            self._first_step = step
        usual = self._first_limit if step <= self._first_step + 1 else self._limit
        self._last = Beat(self._rank, self._host, self._pid, step, where)
        if self._map is not None:
            self._map[:] = self._last.encode()
        # Ray Train runs training in a thread that is not the main one.
        self._watched = threading.get_ident()
        self._limit_now, self._beaten = limit_seconds or usual, time.monotonic()

    def close(self) -> None:
        """Watch no longer."""
        self._done.set()
        if self._thread.is_alive():
            self._thread.join()
        if self._last_words is not None:
            faulthandler.cancel_dump_traceback_later()
            self._last_words.close()
            self._files.dump(self._rank, "last.txt").unlink(missing_ok=True)
            self._files.beat(self._rank).unlink(missing_ok=True)
            self._last_words = None

    def __enter__(self) -> "HangGuard":
        """Start."""
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()

    def _watch(self) -> None:
        polled = time.monotonic()
        while True:
            # The last resort: if this thread does not come here again in time, C code ends the process.
            self._last_resort(self._limit_now + 3 * self._grace)
            if self._done.wait(self._poll):
                return
            assert self._map is not None
            with contextlib.suppress(OSError):
                # For other hosts; a full disk is no reason to stop watching.
                self._map.flush()
            now = time.monotonic()
            late, polled = now - polled - self._poll, now
            if late > max(1.0, 5 * self._poll):
                # The whole process did not run: it was stopped, or the machine slept. That is nobody's hang.
                self._beaten += late
            if now - self._beaten > self._limit_now:
                try:
                    self._hang()
                finally:
                    # Whatever keeps it from being written down, such as a full disk: this attempt is over.
                    os._exit(EXIT_CODE)

    def _last_resort(self, seconds: float) -> None:
        faulthandler.dump_traceback_later(seconds, exit=True, file=self._last_words)

    def _hang(self) -> None:
        """Write down what there is, and wait for the others to do so."""
        self._last_resort(4 * self._grace + (1 + self._world) * _PY_SPY_SECONDS)
        last = self._last
        function, waits = innermost(sys._current_frames().get(self._watched))
        beats = self._files.beats(self._world)
        mine = self._files.dump(self._rank)
        draft = mine.with_suffix(".part")
        draft.write_text(Dump(last, function, waits, neighbours(beats.values())).to_json(), encoding="utf-8")
        draft.replace(mine)
        deadline = time.monotonic() + self._grace
        with open(self._files.dump(self._rank, "txt"), "w", encoding="utf-8") as stream:
            stream.write(f"rank {self._rank}, step {last.step}, {last.where}: {function}\n\n")
            stream.flush()
            faulthandler.dump_traceback(file=stream, all_threads=True)
            if self._native_stacks:
                stream.write(f"\n{py_spy(self._pid, native=True)}")
        self._record_flight()
        while time.monotonic() < deadline and len(self._files.dumps(self._world)) < self._world:
            time.sleep(min(0.05, self._poll))
        if self._rank != min(self._files.dumps(self._world)):
            # The lowest one writes; if it cannot, the others do.
            while time.monotonic() < deadline + self._grace and not self._files.summary.exists():
                time.sleep(min(0.05, self._poll))
        self._tell()

    def _tell(self) -> None:
        """Write the one line, unless another rank has."""
        try:
            stream = open(self._files.summary, "x", encoding="utf-8")  # noqa: SIM115
        except FileExistsError:
            return
        with stream:
            dumps, beats = self._files.dumps(self._world), self._files.beats(self._world)
            line = summarise(self._world, dumps, beats)
            stream.write(line + "\n")
        if self._events is not None:
            EventWriter(self._events).write("hang", **event_of(line, self._world, dumps))
        print(line, file=sys.stderr, flush=True)
        for rank, beat in beats.items():
            if rank not in dumps and beat.host == self._host:
                self._files.dump(rank, "txt").write_text(py_spy(beat.pid), encoding="utf-8")

    def _record_flight(self) -> None:
        """Torch's flight recorder: the last collectives of this rank, with sizes, groups and what became of them."""
        module = sys.modules.get("torch._C._distributed_c10d")
        found = [(name, getattr(module, f"_dump_{name}_trace_json", None)) for name in ("nccl", "fr")]

        def record() -> None:
            for name, dump in found:
                if dump is not None:
                    self._files.dump(self._rank, f"{name}.json").write_bytes(dump())

        # In a thread: it takes locks that whoever hangs may hold.
        thread = threading.Thread(target=record, daemon=True)
        thread.start()
        thread.join(self._grace)


def py_spy(pid: int, native: bool = False) -> str:
    """The stacks of a process of this host as py-spy sees them, or why there are none; changes nothing in it."""
    beside = Path(sys.executable).with_name("py-spy")
    program = str(beside) if beside.exists() else shutil.which("py-spy")
    if program is None:
        return "py-spy is not installed: no native stacks\n"
    command = [program, "dump", "--pid", str(pid), *(["--native"] if native else ["--nonblocking"])]
    with contextlib.suppress(subprocess.TimeoutExpired):
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PY_SPY_SECONDS, check=False)
        return done.stdout or f"py-spy: {done.stderr}"
    return f"py-spy did not end within {_PY_SPY_SECONDS:.0f} s\n"
