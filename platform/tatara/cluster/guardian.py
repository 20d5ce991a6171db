"""Watches the process that owns a private cluster, and ends the cluster if that process is killed.

Ray's head and node die with their owner, but not what they started: Ray's agents spend another minute on a report to
the dead head, and processes that workers started (an engine's own, say) have nobody left to end them. They are found by
the environment that they inherited, or, since Ray writes process titles over that, by their open log files.
This file runs as a program of its own, with the standard library alone.
"""

import os
import shutil
import signal
import sys
import time
from collections.abc import Collection
from pathlib import Path

MARK = "TATARA_PRIVATE_CLUSTER"
"""Environment variable that every process of a private cluster carries: the cluster's temporary directory."""

_GRACE_SECONDS = 1.0
_SWEEP_SECONDS = 15.0


def members(directory: str, spared: Collection[int] = ()) -> list[int]:
    """Processes of the cluster in a directory; other users' cannot be read and are none."""
    processes = [entry for entry in Path("/proc").iterdir() if entry.name.isdigit() and int(entry.name) not in spared]
    return [int(entry.name) for entry in processes if _belongs(entry, directory)]


def _belongs(process: Path, directory: str) -> bool:
    try:
        if f"{MARK}={directory}".encode() in (process / "environ").read_bytes().split(b"\0"):
            return True
        return any(_target(link).startswith(f"{directory}/") for link in (process / "fd").iterdir())
    except OSError:
        return False


def _target(link: Path) -> str:
    try:
        return os.readlink(link)
    except OSError:
        return ""  # Closed meanwhile.


def sweep(directory: str, owner: int) -> None:
    """Kill what is left of a cluster, but not its owner, until nothing is; then remove its directory."""
    deadline = time.monotonic() + _SWEEP_SECONDS
    while (found := members(directory, (owner, os.getpid()))) and time.monotonic() < deadline:
        for process in found:
            try:
                os.kill(process, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.2)
    shutil.rmtree(directory, ignore_errors=True)


def main() -> None:
    """Wait for a word that all is well, or for the end of the owner, which closes our standard input."""
    directory, owner = sys.argv[1:]
    if not sys.stdin.readline():
        time.sleep(_GRACE_SECONDS)
        sweep(directory, int(owner))


if __name__ == "__main__":
    main()
