"""A private cluster on this machine, which ends with the process that starts it, however that ends."""

import logging
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from tatara.cluster import authentication, guardian
from tatara.cluster.session import Session, first_line, set_environment, source_root
from tatara.errors import ClusterError

_TEMP_PREFIX = "tatara-"
# A Unix socket path holds 107 bytes; Ray appends about 63 for "/session_<date>_<pid>/sockets/plasma_store".
_LONGEST_TEMP = 42
_OBJECT_STORE_LIMIT = 1 << 30
_OBJECT_STORE_LEAST = 100 << 20
# What Ray says when its processes need more than the half minute that it gives them.
_TOO_SLOW = "timed out during startup"


def start(num_cpus: int | None, *, listening: bool) -> Session:
    """Start a private cluster and connect to it; on a machine that was too busy for it, once more.

    Args:
        num_cpus: Logical CPUs; None: the cores there are, at least 2.
        listening: Whether workers' output comes to this process.

    Raises:
        ClusterError: Ray does not start.
        RuntimeError: Not called in the main thread.
    """
    try:
        return _start_once(num_cpus, listening=listening)
    except ClusterError as error:
        if _TOO_SLOW not in str(error):
            raise
    return _start_once(num_cpus, listening=listening)


def _start_once(num_cpus: int | None, *, listening: bool) -> Session:
    import ray
    from ray._private.utils import get_num_cpus

    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("a private cluster ends with the thread that starts it: connect in the main thread")
    temp = _make_temp()
    watch = _start_guardian(temp)
    settings: dict[str, str | None] = {
        "RAY_USAGE_STATS_ENABLED": "0",
        # Without this each worker that holds no GPU warns about how it sees none.
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        # There is nobody to scrape them here, and each process complains until an exporter answers.
        "RAY_enable_metrics_collection": "0",
        guardian.MARK: str(temp),
        # Whatever address the environment names is not this cluster's.
        "RAY_ADDRESS": None,
        **authentication.local_settings(temp),
    }
    root = source_root()
    if root is not None:
        # The node's processes inherit it, which, unlike a runtime environment, lets Ray start workers beforehand.
        settings["PYTHONPATH"] = os.pathsep.join([str(root), *_python_path(exclude=root)])
    before = set_environment(settings)
    try:
        authentication.reload()
        ray.init(
            address="local",
            num_cpus=num_cpus or max(2, int(get_num_cpus())),
            include_dashboard=False,
            object_store_memory=_object_store_bytes(),
            log_to_driver=listening,
            logging_level=logging.WARNING,
            namespace="tatara",
            _temp_dir=str(temp),
        )
    except BaseException as error:
        ray.shutdown()
        set_environment(before)
        if watch is not None:
            watch.communicate()  # Without a word it ends what did start, and removes the directory.
        if isinstance(error, Exception):
            raise ClusterError(f"cannot start a local Ray cluster in {temp}: {first_line(error)}") from error
        raise
    return Session(True, before, temp, watch)


def _start_guardian(temp: Path) -> "subprocess.Popen[bytes] | None":
    if not Path("/proc/self/environ").exists():
        return None  # Where the kernel does not end children with their parent, Ray runs a process like it.
    command = [sys.executable, "-I", "-S", guardian.__file__, str(temp), str(os.getpid())]
    # A session of its own, so that a Ctrl-C in the terminal does not end it first.
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )


def _python_path(exclude: Path) -> list[str]:
    present = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    return [str(Path(entry).resolve()) for entry in present if entry and Path(entry).resolve() != exclude]


def _make_temp() -> Path:
    """A directory of this process's own with a path short enough for the sockets in it."""
    for parent in dict.fromkeys((tempfile.gettempdir(), "/tmp")):
        prefix = f"{_TEMP_PREFIX}{os.getpid()}-"
        if len(parent) + 1 + len(prefix) + 8 <= _LONGEST_TEMP and os.access(parent, os.W_OK | os.X_OK):
            return Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    raise ClusterError(
        f"Ray's sockets need a writable temporary directory with a short path: set TMPDIR to one "
        f"(now {tempfile.gettempdir()})"
    )


def _object_store_bytes() -> int:
    from ray._common.utils import get_system_memory

    wanted = min(_OBJECT_STORE_LIMIT, int(0.2 * get_system_memory()))
    try:
        shared = int(0.9 * shutil.disk_usage("/dev/shm").free)
    except OSError:
        shared = 0
    # Where shared memory is too small for any store (a container's 64 MiB), Ray uses the disk and says so.
    return max(_OBJECT_STORE_LEAST, min(wanted, shared) if shared >= _OBJECT_STORE_LEAST else wanted)
