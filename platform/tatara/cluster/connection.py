"""One connection to Ray per process: a private local cluster, or one that already runs."""

import atexit
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import tatara
from tatara.cluster import authentication, guardian
from tatara.cluster.packing import Node, describe_nodes
from tatara.errors import ClusterError

WorkerOutput = Callable[[str], None]

_TEMP_PREFIX = "tatara-"
# A Unix socket path holds 107 bytes; Ray appends about 63 for "/session_<date>_<pid>/sockets/plasma_store".
_LONGEST_TEMP = 42
_OBJECT_STORE_LIMIT = 1 << 30
_PROBE_SECONDS = 5.0
# Set by Ray in the driver of a submitted job: the job's own runtime environment, as JSON.
_JOB_CONFIG = "RAY_JOB_CONFIG_JSON_ENV_VAR"
# What a driver outside the cluster hands to its workers; never a secret, since every cluster user can read it.
_PASSED_ON = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "WANDB_MODE", "AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION")


@dataclass(frozen=True)
class ClusterView:
    """A cluster as it is at one moment."""

    address: str
    """``ip:port`` of the head."""
    owned: bool
    """True for a private local cluster, which ends with this process."""
    nodes: tuple[Node, ...]
    """The nodes that are alive."""

    def total(self, resource: str) -> float:
        """How much of a resource all nodes hold together (``CPU`` in cores, ``memory`` in bytes)."""
        return sum(node.total.get(resource, 0.0) for node in self.nodes)

    def describe(self) -> str:
        """One line: ``a private local cluster: 1 node with 2 CPU, 14.2 GiB memory``."""
        what = "a private local cluster" if self.owned else f"the cluster at {self.address}"
        return f"{what}: {describe_nodes(self.nodes)}"


@dataclass(frozen=True)
class _Connection:
    owned: bool
    temp: Path | None
    environment: dict[str, str | None]
    """What the environment variables that we set held before."""
    guardian: "subprocess.Popen[bytes] | None" = None


_current: _Connection | None = None


def connect(
    address: str | None = None, *, num_cpus: int | None = None, worker_output: WorkerOutput | None = None
) -> ClusterView:
    """Attach to a running cluster, or start a private local one that ends with this process.

    Calling it again while connected changes nothing and returns the present view.

    Args:
        address: ``HOST:PORT`` of a head or ``auto``; default: ``RAY_ADDRESS``, which Ray sets inside a job.
            Without either a private local cluster starts.
        num_cpus: Logical CPUs of a private cluster; default: the cores there are, at least 2.
        worker_output: Receives what workers print, line by line, prefixed with who printed it. Without it
            that output stays in Ray's log files. It is called from another thread.

    Raises:
        ClusterError: Nothing answers at the address, it runs another version, or it refuses our token.
    """
    global _current
    import ray

    if ray.is_initialized():
        return view()
    _remove_stale_temps()
    handler = signal.getsignal(signal.SIGTERM)
    address = address or os.environ.get("RAY_ADDRESS") or None
    if address in (None, "local"):
        _current = _start_local(num_cpus, listening=worker_output is not None)
    else:
        assert address is not None
        _current = _attach(address, listening=worker_output is not None)
    atexit.register(disconnect)
    _restore_sigterm(handler)
    if worker_output is not None:
        _listen(worker_output)
    return view()


def _restore_sigterm(handler: Any) -> None:
    """Ray's own handler, which it puts over any other, prints a stack trace of C++ frames."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler if callable(handler) else _leave)


def _leave(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)


def disconnect() -> None:
    """Leave the cluster; a private local one is shut down and its files removed. Safe to call twice."""
    global _current
    import ray

    connection, _current = _current, None
    atexit.unregister(disconnect)
    if connection is None:
        return
    ray.shutdown(wait_for_processes=connection.owned)
    for name, value in connection.environment.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    if connection.guardian is not None:
        connection.guardian.communicate(b"left in order\n")
    if connection.temp is not None:
        shutil.rmtree(connection.temp, ignore_errors=True)
    if "RAY_AUTH_MODE" in connection.environment:
        authentication.reload()


def is_connected() -> bool:
    """Whether this process is connected to a cluster."""
    import ray

    return bool(ray.is_initialized())


def view() -> ClusterView:
    """The cluster this process is connected to, as it is now.

    Raises:
        ClusterError: Not connected.
    """
    import ray

    from tatara.cluster import capacity

    if not ray.is_initialized():
        raise ClusterError("not connected to a Ray cluster: call tatara.cluster.connect() first")
    owned = _current is not None and _current.owned
    return ClusterView(str(ray.get_runtime_context().gcs_address), owned, capacity.alive_nodes())


def source_root() -> Path | None:
    """The directory workers need on their path to import this very ``tatara``; None where it is installed."""
    root = Path(tatara.__file__).resolve().parent.parent
    return None if root.name in ("site-packages", "dist-packages") else root


def _start_local(num_cpus: int | None, *, listening: bool) -> _Connection:
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
    before = _set_environment(settings)
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
        _set_environment(before)
        if watch is not None:
            watch.communicate()  # Without a word it ends what did start, and removes the directory.
        if isinstance(error, Exception):
            raise ClusterError(f"cannot start a local Ray cluster in {temp}: {_first_line(error)}") from error
        raise
    return _Connection(True, temp, before, watch)


def _start_guardian(temp: Path) -> "subprocess.Popen[bytes] | None":
    if not Path("/proc/self/environ").exists():
        return None  # Where the kernel does not end children with their parent, Ray runs a process like it.
    command = [sys.executable, "-I", "-S", guardian.__file__, str(temp)]
    # A session of its own, so that a Ctrl-C in the terminal does not end it first.
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)


def _attach(address: str, *, listening: bool) -> _Connection:
    import ray

    if "://" in address:
        raise ClusterError(
            f"cannot attach to {address}: give HOST:PORT of the Ray head (default port 6379); "
            "a dashboard address (http://HOST:8265) is for submitting jobs"
        )
    before = _set_environment({"RAY_USAGE_STATS_ENABLED": "0", **authentication.attach_settings()})
    try:
        authentication.reload()
        if address != "auto":
            probe(address)
        ray.init(
            address=address,
            log_to_driver=listening,
            logging_level=logging.WARNING,
            namespace="tatara",
            runtime_env=runtime_environment(),
        )
    except Exception as error:
        ray.shutdown()
        _set_environment(before)
        if isinstance(error, ClusterError):
            raise
        raise ClusterError(_explain(address, error)) from error
    return _Connection(False, None, before)


def probe(address: str) -> None:
    """Ask the head at ``HOST:PORT`` for its version, within seconds.

    Raises:
        ClusterError: Nothing answers, something other than Ray answers, or another version does.
    """
    import grpc
    import ray
    from ray._private.gcs_utils import create_gcs_channel
    from ray.core.generated import gcs_service_pb2, gcs_service_pb2_grpc

    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise ClusterError(f"{address!r} is not a Ray address: give HOST:PORT, or auto")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_PROBE_SECONDS).close()
    except OSError as error:
        reason = error.strerror or str(error)
        raise ClusterError(f"no Ray cluster answers at {address} ({reason}): check the address, or start one") from None
    channel = create_gcs_channel(address)
    try:
        stub = gcs_service_pb2_grpc.NodeInfoGcsServiceStub(channel)
        reply = stub.CheckAlive(gcs_service_pb2.CheckAliveRequest(), timeout=_PROBE_SECONDS)
    except grpc.RpcError as error:
        if error.code() == grpc.StatusCode.UNAUTHENTICATED:
            raise ClusterError(authentication.refusal(address)) from None
        raise ClusterError(
            f"what listens at {address} is not the head of a Ray cluster ({error.code().name.lower()}): "
            "the head's own port (default 6379) is needed, not the dashboard's"
        ) from None
    finally:
        channel.close()
    if reply.ray_version != ray.__version__:
        raise ClusterError(
            f"the cluster at {address} runs Ray {reply.ray_version}, this is Ray {ray.__version__}: install the same"
        )


def runtime_environment() -> dict[str, Any]:
    """What workers of a cluster that we attach to need beyond what its nodes and the job bring."""
    import json

    config = json.loads(os.environ.get(_JOB_CONFIG) or "{}")
    job = config.get("runtime_env") or {}
    given: dict[str, str] = job.get("env_vars") or {}
    variables = {name: os.environ[name] for name in _PASSED_ON if name in os.environ and name not in given}
    environment: dict[str, Any] = {}
    root = source_root()
    if root is not None and _JOB_CONFIG not in os.environ:
        # Nodes of a real cluster do not see this directory, so the package travels.
        environment["py_modules"] = [str(root / "tatara")]
        environment["excludes"] = ["**/__pycache__"]
    elif root is not None and "PYTHONPATH" not in given and not job.get("py_modules"):
        # In a job: every node unpacks the working directory at a place of its own, hence the relative path.
        here = Path.cwd().resolve()
        inside = job.get("working_dir") and root.is_relative_to(here)
        variables["PYTHONPATH"] = str(root.relative_to(here) if inside else root)
    if variables:
        environment["env_vars"] = variables
    return environment


def _listen(worker_output: WorkerOutput) -> None:
    from ray._private.ray_logging import global_worker_stdstream_dispatcher

    def forward(batch: dict[str, Any]) -> None:
        if not str(batch.get("pid", "")).isdigit():
            return  # Ray's own, such as the autoscaler's status every few seconds.
        who = batch.get("actor_name") or batch.get("task_name") or batch.get("proc_name") or "worker"
        where = f"{who} pid={batch.get('pid')} ip={batch.get('ip')}"
        for line in batch.get("lines") or ():
            if line.strip():
                worker_output(f"({where}) {line.rstrip()}")

    # Ray's own handler would print to this process's terminal.
    global_worker_stdstream_dispatcher.remove_handler("ray_print_logs")
    global_worker_stdstream_dispatcher.remove_handler("tatara")
    global_worker_stdstream_dispatcher.add_handler("tatara", forward)


def _python_path(exclude: Path) -> list[str]:
    present = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    return [str(Path(entry).resolve()) for entry in present if entry and Path(entry).resolve() != exclude]


def _set_environment(settings: dict[str, str | None]) -> dict[str, str | None]:
    before = {name: os.environ.get(name) for name in settings}
    for name, value in settings.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    return before


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


def _remove_stale_temps() -> None:
    """Remove what processes that were killed left behind: no exit handler ran in them."""
    for parent in dict.fromkeys((tempfile.gettempdir(), "/tmp")):
        for directory in Path(parent).glob(f"{_TEMP_PREFIX}[0-9]*-*"):
            process = directory.name.removeprefix(_TEMP_PREFIX).split("-")[0]
            if not process.isdigit() or _is_alive(int(process)):
                continue
            try:
                ours = directory.stat().st_uid == os.getuid()
            except OSError:
                continue  # Another process was faster.
            if ours:
                shutil.rmtree(directory, ignore_errors=True)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _object_store_bytes() -> int:
    from ray._common.utils import get_system_memory

    return max(100 << 20, min(_OBJECT_STORE_LIMIT, int(0.2 * get_system_memory())))


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def _explain(address: str, error: Exception) -> str:
    from ray.exceptions import AuthenticationError

    if isinstance(error, AuthenticationError):
        return authentication.refusal(address)
    if address == "auto":
        return "no Ray cluster runs on this machine: give its address, or none to start a private one"
    return f"cannot attach to the Ray cluster at {address}: {_first_line(error)}"
