"""One connection to Ray per process: a private local cluster, or one that already runs."""

import atexit
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import Any

from tatara.cluster import authentication
from tatara.cluster.attach import attach
from tatara.cluster.packing import Node, describe_nodes
from tatara.cluster.private import start
from tatara.cluster.session import Session, set_environment
from tatara.errors import ClusterError

WorkerOutput = Callable[[str], None]


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


_current: Session | None = None


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
    handler = signal.getsignal(signal.SIGTERM)
    address = address or os.environ.get("RAY_ADDRESS") or None
    if address in (None, "local"):
        _current = start(num_cpus, listening=worker_output is not None)
    else:
        assert address is not None
        _current = attach(address, listening=worker_output is not None)
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

    session, _current = _current, None
    atexit.unregister(disconnect)
    if session is None:
        return
    ray.shutdown(wait_for_processes=session.owned)
    set_environment(session.environment)
    if session.guardian is not None:
        session.guardian.communicate(b"left in order\n")
    if session.temp is not None:
        shutil.rmtree(session.temp, ignore_errors=True)
    if "RAY_AUTH_MODE" in session.environment:
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
