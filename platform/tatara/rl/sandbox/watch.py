"""Watch a program in the sandbox: answer it, collect its output, enforce its limits, and judge what came of it."""

import math
import os
import resource
import selectors
import signal
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import IO

from tatara.errors import EngineError
from tatara.rl.sandbox.outcome import Limits, Outcome, Status

SETUP_SECONDS = 60.0
"""How long making the sandbox may take; it takes hundredths of a second, but machines are sometimes busy."""
END_SECONDS = 20.0
"""How long the kernel may take to end what it was told to kill."""
_LOOK_SECONDS = 0.03
"""How often memory and time are looked at."""
_INSIDE = 1000
_NOBODY = 65534
_FIX = (
    "allow user namespaces (sysctl user.max_user_namespaces=15000, kernel.unprivileged_userns_clone=1, "
    "kernel.apparmor_restrict_unprivileged_userns=0), or give the container CAP_SYS_ADMIN and a seccomp profile that "
    "allows unshare and mount"
)


class Watch:
    """One program while it runs."""

    def __init__(self, process: "subprocess.Popen[bytes]", control: socket.socket, limits: Limits) -> None:
        self.process = process
        self.control = control
        self.limits = limits
        self.output: dict[str, bytearray] = {"stdout": bytearray(), "stderr": bytearray()}
        self.verdict: Status | None = None
        self.started: float | None = None
        self.seconds = 0.0
        self.ending: tuple[int, float] | None = None
        self.messages = b""
        self.deadline = time.monotonic() + SETUP_SECONDS

    def run(self) -> Outcome:
        """Answer the sandbox, collect output and enforce limits until everything has ended."""
        with selectors.DefaultSelector() as selector:
            streams: dict[str, IO[bytes] | None] = {"stdout": self.process.stdout, "stderr": self.process.stderr}
            for name, stream in streams.items():
                assert stream is not None
                selector.register(stream, selectors.EVENT_READ, name)
            selector.register(self.control, selectors.EVENT_READ, "control")
            while selector.get_map():
                for key, _ in selector.select(_LOOK_SECONDS):
                    content = _read(key.fd)
                    if not content:
                        selector.unregister(key.fileobj)
                    elif key.data == "control":
                        self._hear(content)
                    else:
                        self._collect(key.data, content)
                self._enforce()
        return self._outcome()

    def _hear(self, content: bytes) -> None:
        *lines, self.messages = (self.messages + content).split(b"\n")
        for line in lines:
            word, _, rest = line.decode(errors="replace").partition(" ")
            if word == "map":
                _map_users(self.process.pid)
            elif word == "start":
                self.started = time.monotonic()
                self.deadline = self.started + self.limits.wall_seconds
            elif word == "end":
                status, seconds = rest.split()
                self.ending = int(status), float(seconds)
                self.seconds = time.monotonic() - (self.started or 0.0)
                self.deadline = time.monotonic() + END_SECONDS
            else:
                raise _cannot(rest)
            if word in ("map", "start"):
                with suppress(BrokenPipeError):  # It has just ended, as the next read will show.
                    self.control.sendall(b"y")

    def _collect(self, name: str, content: bytes) -> None:
        room = self.limits.output_bytes - sum(map(len, self.output.values()))
        self.output[name] += content[: max(0, room)]
        if len(content) > room:
            self._kill("killed")

    def _enforce(self) -> None:
        now = time.monotonic()
        if now > self.deadline:
            if self.started is None:
                raise EngineError(f"making a sandbox took more than {SETUP_SECONDS:.0f} s: the machine is too busy")
            if self.verdict is not None or self.ending is not None:
                raise EngineError(f"a sandbox did not end within {END_SECONDS:.0f} s of being killed")
            self._kill("timeout")
            return
        running = self.started is not None and self.verdict is None and self.ending is None
        if running and _resident(self.process.pid) > self.limits.memory_bytes:
            self._kill("memory")

    def _kill(self, verdict: Status) -> None:
        if self.verdict is None and self.ending is None:
            self.verdict = verdict
            self.seconds = time.monotonic() - (self.started or 0.0)
            self.deadline = time.monotonic() + END_SECONDS
            # The first process inside follows it, and takes all others along.
            self.process.kill()

    def _outcome(self) -> Outcome:
        stdout, stderr = (bytes(self.output[name]).decode(errors="replace") for name in ("stdout", "stderr"))
        if self.ending is None and self.verdict is None:
            if self.started is None:
                raise _cannot(end_of(stderr) or "its process ended at once")
            # Somebody else killed it; the kernel, if memory ran out.
            self.verdict, self.seconds = "killed", time.monotonic() - self.started
        if self.verdict is not None:
            return Outcome(self.verdict, None, stdout, stderr, self.seconds)
        assert self.ending is not None
        code = os.waitstatus_to_exitcode(self.ending[0])
        return Outcome(self._judge(code, stderr), code, stdout, stderr, self.seconds)

    def _judge(self, code: int, stderr: str) -> Status:
        assert self.ending is not None
        # The kernel counts in ticks; what it tells afterwards can be a little less.
        out_of_time = self.ending[1] >= 0.8 * math.ceil(self.limits.cpu_seconds)
        if code == -signal.SIGXCPU or (code == -signal.SIGKILL and out_of_time):
            return "timeout"
        if code < 0:
            return "killed"
        if code > 0 and stderr.rstrip().rpartition("\n")[2].startswith("MemoryError"):
            return "memory"
        return "ok" if code == 0 else "error"


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except ConnectionResetError:  # It ended without reading our answer.
        return b""


def _cannot(reason: str) -> EngineError:
    return EngineError(f"this machine cannot isolate code ({reason}): {_FIX}")


def end_of(text: str) -> str:
    """The last words of a program, on one line."""
    return " ".join(text.split())[-300:]


def _map_users(process: int) -> None:
    """Give a process in a new user namespace its users: root for the set-up where we are root, and the program's."""
    ours = {"uid_map": os.geteuid(), "gid_map": os.getegid()}
    directory = Path(f"/proc/{process}")
    with suppress(FileNotFoundError):
        directory.joinpath("setgroups").write_text("deny")
    for name, own in ours.items():
        # Two lines are for those who may become others; else the program runs as this user, without its privileges.
        choices = [f"0 0 1\n{_INSIDE} {_NOBODY} 1\n"] if own == 0 else []
        _write_first(directory / name, [*choices, f"{_INSIDE} {own} 1\n"])


def _write_first(path: Path, choices: list[str]) -> None:
    for last, choice in enumerate(choices, 1):
        try:
            path.write_text(choice)
            return
        except PermissionError as error:
            if last == len(choices):
                raise EngineError(
                    f"this machine cannot isolate code ({path.name}: {error.strerror}): {_FIX}"
                ) from error


def _resident(process: int) -> int:
    """Resident memory of the descendants of a process that is not backed by files, in bytes."""
    total, open_list = 0, [process]
    while open_list:
        each = open_list.pop()
        with suppress(OSError, ValueError, IndexError):
            open_list += map(int, Path(f"/proc/{each}/task/{each}/children").read_text().split())
            if each != process:
                _, resident, shared, *_ = map(int, Path(f"/proc/{each}/statm").read_text().split())
                total += (resident - shared) * resource.getpagesize()
    return total
