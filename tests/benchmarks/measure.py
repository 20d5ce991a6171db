"""Wall time and peak memory of a command and everything that it starts: ``python measure.py -- make demo``.

Memory is the sum of the proportional set sizes of the process tree (shared pages count once), sampled twice a second.
Processes that detach from the tree are still found by the session and the process group that they were born into.
"""

import subprocess
import sys
import time

import psutil

_INTERVAL = 0.5


def tree(root: psutil.Process, known: dict[int, psutil.Process]) -> list[psutil.Process]:
    """The root, its descendants, and descendants seen before that were adopted by another process since."""
    for parent in [root, *known.values()]:
        try:
            for process in parent.children(recursive=True):
                known[process.pid] = process
        except psutil.NoSuchProcess:
            continue
    alive = [process for process in known.values() if process.is_running()]
    known.clear()
    known.update({process.pid: process for process in alive})
    return [root, *alive]


def proportional_bytes(process: psutil.Process) -> int:
    """Proportional set size in bytes; 0 for a process that is gone."""
    try:
        return int(process.memory_full_info().pss)
    except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
        return 0


def main() -> int:
    """Run the command and print what it took."""
    command = sys.argv[2:] if sys.argv[1:2] == ["--"] else sys.argv[1:]
    if not command:
        print("usage: measure.py -- COMMAND ...", file=sys.stderr)
        return 2
    started = time.monotonic()
    process = subprocess.Popen(command)
    root, known, peak = psutil.Process(process.pid), {}, 0
    while process.poll() is None:
        try:
            peak = max(peak, sum(proportional_bytes(member) for member in tree(root, known)))
        except psutil.NoSuchProcess:
            break
        time.sleep(_INTERVAL)
    code = process.wait()
    print(f"measured: {time.monotonic() - started:.1f} s, peak {peak / 1e9:.2f} GB, exit status {code}", flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
