"""What a sandboxed program may use, and what came of it."""

from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "error", "timeout", "memory", "killed"]


@dataclass(frozen=True)
class Limits:
    """What one program may use; every figure is above zero."""

    cpu_seconds: float = 5.0
    """CPU time of each process, rounded up to whole seconds."""
    wall_seconds: float = 10.0
    """Time from its start until it and all its processes are killed."""
    memory_bytes: int = 512 << 20
    """Address space of each process, and resident memory of all together (looked at many times a second)."""
    processes: int = 16
    """Processes and threads at a time."""
    file_bytes: int = 16 << 20
    """Size of all files that it writes, together and each."""
    output_bytes: int = 256 << 10
    """What it may write to standard output and standard error together."""


@dataclass(frozen=True)
class Outcome:
    """What a program did."""

    status: Status
    """``ok``: exit code 0; ``error``: another; ``timeout``: wall or CPU time was used up; ``memory``: it ran out of
    memory; ``killed``: a signal or too much output ended it."""
    exit_code: int | None
    """Its exit code, the negative signal that ended it, or None where it was killed with all its processes."""
    stdout: str
    """As UTF-8, with replacement characters for what is not; cut at the limit."""
    stderr: str
    """The same, with the traceback."""
    seconds: float
    """Wall time of the program itself."""
