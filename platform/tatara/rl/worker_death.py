"""Why a worker died, in one line: what Ray knows of it, and what it said last."""

import re
from pathlib import Path

_TAIL_BYTES = 16_384
_LONGEST = 300
"""Characters of a worker's last line."""


def why(error: BaseException) -> str:
    """One line from what Ray raises for the call of a dead actor.

    The standard error of the process is read where it is on this machine; else its address says where to look.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = lines[-1] if lines else type(error).__name__
    found = re.search(r"^\s*pid: (\d+)$", str(error), re.MULTILINE)
    if found is None:
        return reason
    log = _log_of(int(found[1]))
    if log is None:
        host = re.search(r"^\s*ip: (\S+)$", str(error), re.MULTILINE)
        return f"{reason}; its log is worker-*-{found[1]}.err{f' on {host[1]}' if host else ''} in Ray's directory"
    said = _last_line(log)
    return f"{reason}; it said last: {said} (log: {log})" if said else f"{reason}; it said nothing (log: {log})"


def _log_of(pid: int) -> Path | None:
    """What a worker of this machine wrote to standard error."""
    from ray._private.worker import global_worker

    if global_worker.node is None:
        return None
    logs = Path(global_worker.node.get_logs_dir_path()).glob(f"worker-*-{pid}.err")
    return max(logs, key=lambda log: log.stat().st_mtime, default=None)


def _last_line(log: Path) -> str:
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _TAIL_BYTES))
        lines = [line.strip() for line in file.read().decode(errors="replace").splitlines()]
    # Ray's own lines, which begin with colons, tell the name of the task that ran.
    said = [line for line in lines if line and not line.startswith(":")]
    return said[-1][:_LONGEST] if said else ""
