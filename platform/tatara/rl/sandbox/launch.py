"""Start a program in the sandbox; what watches it then is in `tatara.rl.sandbox.watch`."""

import marshal
import math
import os
import platform
import socket
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

from tatara.errors import DataError, EngineError
from tatara.rl.sandbox.outcome import Limits, Outcome
from tatara.rl.sandbox.seccomp import filter_program, machines
from tatara.rl.sandbox.view import View, view
from tatara.rl.sandbox.watch import END_SECONDS, SETUP_SECONDS, Watch, end_of

_PROGRAM = "main.py"
_OPEN_FILES = 256
_OURS = 2
"""Processes of the sandbox itself."""


def run(
    code: str,
    *,
    limits: Limits = Limits(),  # noqa: B008  (frozen)
    files: Mapping[str, bytes] | None = None,
    stdin: str = "",
    packages: bool = False,
) -> Outcome:
    """Run Python code that nobody has read, without network, without files but its own, within limits.

    The code is ``main.py`` in an empty directory that is gone afterwards; so is every process that it started. Blocks
    for at most ``limits.wall_seconds`` and the time that making and ending the sandbox takes; many threads may call it.

    Args:
        code: Source of the program.
        limits: What it may use.
        files: Further files by relative path; modules among them can be imported.
        stdin: What it reads on standard input.
        packages: Whether it sees the installed packages, not only the standard library; some need more memory.

    Raises:
        EngineError: This machine cannot isolate a program; nothing was run.
        DataError: A file has no relative path within the directory.
    """
    for name in files or {}:
        _check_name(name)
    seen = view(packages)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        request = _request(code, limits, files or {}, stdin, seen, theirs.fileno())
        launcher = str(Path(__file__).parent)
        # Bare (no site, no environment): what starts quickly also has little to trust.
        process = subprocess.Popen(
            [seen.python, "-I", "-S", "-c", f"import sys; sys.path.append({launcher!r}); import jail; jail.main()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=[theirs.fileno()],
            env={},
            cwd="/",
            start_new_session=True,
        )
        theirs.close()
        try:
            with suppress(BrokenPipeError):
                assert process.stdin is not None
                process.stdin.write(marshal.dumps(request))
                process.stdin.close()
            return Watch(process, ours, limits).run()
        finally:
            # A half-made sandbox gives up when the other end of its socket is closed.
            ours.close()
            _end(process)


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.kill()
    for stream in (process.stdin, process.stdout, process.stderr):
        with suppress(BrokenPipeError):
            if stream is not None:
                stream.close()
    try:
        process.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        raise EngineError(
            f"a sandbox (process {process.pid}) cannot be killed: the machine hangs in the kernel"
        ) from None


@cache
def available() -> str | None:
    """None where programs can be sandboxed on this machine, tried once; else one line: what is missing, and the fix."""
    try:
        outcome = run("print(6 * 7)", limits=Limits(wall_seconds=SETUP_SECONDS, cpu_seconds=SETUP_SECONDS))
    except EngineError as error:
        return str(error)
    if outcome.stdout == "42\n":
        return None
    return (
        f"the sandbox starts, but Python does not run in it ({end_of(outcome.stderr)}): make the interpreter and its "
        "libraries readable for all users"
    )


def _request(
    code: str, limits: Limits, files: Mapping[str, bytes], stdin: str, seen: View, control: int
) -> dict[str, Any]:
    machine = platform.machine()
    if platform.system() != "Linux" or machine not in machines():
        raise EngineError(
            f"code can be sandboxed on Linux ({' or '.join(machines())}), not {platform.system()} ({machine}): "
            "place the reward workers on such a machine"
        )
    seconds = math.ceil(limits.cpu_seconds)
    environment = {
        "HOME": "/tmp", "TMPDIR": "/tmp", "PATH": "/nowhere", "LANG": "C.UTF-8", "PYTHONHASHSEED": "0",
        # Threads and arenas of threads take address space and count as processes.
        "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1",
    }  # fmt: skip
    if seen.search:
        environment["PYTHONPATH"] = ":".join(seen.search)
    return {
        "parent": os.getpid(),
        "control": control,
        "binds": seen.binds,
        "links": seen.links,
        "filter": filter_program(machine),
        "stdin": stdin.encode("utf-8", "surrogatepass"),
        "files": {**files, _PROGRAM: code.encode("utf-8", "surrogatepass")},
        "file_bytes": limits.file_bytes,
        "limits": {
            "RLIMIT_AS": (limits.memory_bytes, limits.memory_bytes),
            "RLIMIT_CPU": (seconds, seconds + 1),
            "RLIMIT_FSIZE": (limits.file_bytes, limits.file_bytes),
            "RLIMIT_NPROC": (limits.processes + _OURS, limits.processes + _OURS),
            "RLIMIT_NOFILE": (_OPEN_FILES, _OPEN_FILES),
            "RLIMIT_CORE": (0, 0),
            "RLIMIT_MSGQUEUE": (0, 0),
        },
        "command": (seen.python, "-s", "-S", "-B", _PROGRAM),
        "environment": environment,
    }


def _check_name(name: str) -> None:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts or "\0" in name or name == _PROGRAM:
        raise DataError(f"a file for the sandbox is called {name!r}: use a relative path without '..', not {_PROGRAM}")
