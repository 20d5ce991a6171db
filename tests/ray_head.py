"""A real Ray head of a test's own: its own ports, its own token, ended with the test."""

import ctypes
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import requests

from tatara.cluster import guardian

START_SECONDS = 120.0
STOP_SECONDS = 3.0
# The identity and node type that Ray's fake node provider expects of its head.
FAKE_HEAD_TYPE = "ray.head.default"
FAKE_HEAD_ID = "fffffffffffffffffffffffffffffffffffffffffffffffffff00000"


@dataclass(frozen=True)
class RayHead:
    """A running head."""

    address: str
    """``HOST:PORT`` to attach to."""
    dashboard: str
    """``http://HOST:PORT`` to submit jobs to; empty without a dashboard."""
    environment: Mapping[str, str]
    """What a client process needs in its environment (the token)."""
    temp: Path
    process: psutil.Process

    def processes(self) -> list[psutil.Process]:
        """Every process of this cluster but the head's own launcher, jobs and workers included."""
        found: dict[int, psutil.Process] = {}
        # The launcher itself may be gone.
        with suppress(psutil.NoSuchProcess):
            found |= {process.pid: process for process in self.process.children(recursive=True)}
        for number in guardian.members(str(self.temp), {os.getpid(), self.process.pid, *found}):
            with suppress(psutil.NoSuchProcess):
                found[number] = psutil.Process(number)
        return list(found.values())


@contextmanager
def ray_head(
    num_cpus: int = 2, *, dashboard: bool = True, token: bool = True, node_types: Mapping[str, Any] | None = None
) -> Iterator[RayHead]:
    """Start a head, put its token into this process's environment, and end everything afterwards.

    Args:
        num_cpus: Logical CPUs of the head node.
        dashboard: Whether to start the dashboard, which takes jobs.
        token: Whether the head asks for a token.
        node_types: ``available_node_types`` of an autoscaler; nodes it adds are processes on this machine.
    """
    temp = Path(tempfile.mkdtemp(prefix="rh-", dir="/tmp"))
    port, board, agent, client = _free_ports(4)
    secret = temp / "token"
    secret.touch(0o600)
    secret.write_text(secrets.token_hex(32))
    access = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(secret)} if token else {"RAY_AUTH_MODE": "disabled"}
    command = [
        *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--disable-usage-stats"),
        *(f"--port={port}", f"--num-cpus={num_cpus}", f"--temp-dir={temp}/r", "--object-store-memory=150000000"),
        *(f"--dashboard-port={board}", f"--dashboard-agent-listen-port={agent}", f"--ray-client-server-port={client}"),
        *("--min-worker-port=0", "--max-worker-port=0", f"--include-dashboard={str(dashboard).lower()}"),
    ]
    environment = {
        **os.environ,
        **access,
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "2",
        # A busy machine answers late. A process that is gone is still seen at once: its connection is refused.
        "RAY_health_check_timeout_ms": "60000",
        "RAY_agent_register_timeout_ms": "180000",
    }
    environment.pop("RAY_ADDRESS", None)
    # A job's ``python`` is the one that runs this test.
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment.get("PATH", os.defpath)])
    host = "127.0.0.1"
    if node_types is not None:
        host = _own_address()
        command.append(f"--autoscaling-config={_write_autoscaler(temp, f'{host}:{port}', node_types)}")
        environment |= {"AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_FAKE_CLUSTER": "1", "RAY_enable_autoscaler_v2": "1"}
        environment |= {"RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_ID, "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_ID}
    command.append(f"--node-ip-address={host}")
    before = {name: os.environ.get(name) for name in access}
    os.environ.update(access)
    url = f"http://{host}:{board}" if dashboard else ""
    try:
        # Ray gives up after half a minute of its own, which a busy machine can need once.
        for last in (False, True):
            launcher = _launch(command, environment, temp)
            head = RayHead(f"{host}:{port}", url, access, temp, psutil.Process(launcher.pid))
            try:
                _wait_until_up(head, port, launcher, temp / "head.log", secret.read_text())
                break
            except RuntimeError:
                if last:
                    raise
                _stop(head, launcher)
        yield head
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
        _stop(head, launcher)
        shutil.rmtree(temp, ignore_errors=True)


def _launch(command: list[str], environment: Mapping[str, str], temp: Path) -> "subprocess.Popen[bytes]":
    with (temp / "head.log").open("w") as output:
        return subprocess.Popen(
            command, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
            preexec_fn=_end_with_parent, cwd=temp,
        )  # fmt: skip


def _wait_until_up(head: RayHead, port: int, launcher: "subprocess.Popen[bytes]", log: Path, token: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    host = head.address.rpartition(":")[0]
    while True:
        with suppress(OSError, requests.RequestException):
            socket.create_connection((host, port), timeout=1).close()
            # The dashboard answers before the node is up, and ends with it where that fails.
            if "Ray runtime started" in log.read_text() and (not head.dashboard or _answers(head.dashboard, token)):
                return
        if launcher.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"the head did not start:\n{log.read_text()[-3000:]}")
        time.sleep(0.2)


def _answers(dashboard: str, token: str) -> bool:
    headers = {"Authorization": f"Bearer {token}"}
    return requests.get(f"{dashboard}/api/jobs/", timeout=2, headers=headers).status_code == 200


def _stop(head: RayHead, launcher: "subprocess.Popen[bytes]") -> None:
    """SIGTERM lets the head end its own processes; since it may drain for half a minute, the rest is killed."""
    ours = head.processes()
    launcher.send_signal(signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        launcher.wait(STOP_SECONDS)
    for process in {*ours, *(head.processes() if launcher.poll() is None else ())}:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    launcher.kill()
    launcher.wait()
    psutil.wait_procs(ours, timeout=10)


def _write_autoscaler(temp: Path, address: str, node_types: Mapping[str, Any]) -> Path:
    provider = "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider"
    lists = ("cluster_synced_files", "rsync_exclude", "rsync_filter", "initialization_commands", "setup_commands")
    starts = ("head_setup_commands", "worker_setup_commands", "head_start_ray_commands", "worker_start_ray_commands")
    config = {
        "cluster_name": "test",
        "max_workers": sum(kind["max_workers"] for kind in node_types.values()),
        "upscaling_speed": 1.0,
        # Long enough that no node is taken away for being idle before the other nodes of a request are there.
        "idle_timeout_minutes": 10,
        "provider": {
            "type": "external", "module": provider, "gcs_address": address,
            "launch_multiple": True, "head_node_id": FAKE_HEAD_ID,
        },
        "head_node_type": FAKE_HEAD_TYPE,
        "available_node_types": {
            FAKE_HEAD_TYPE: {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            **{name: {"node_config": {}, "min_workers": 0, **kind} for name, kind in node_types.items()},
        },
        "auth": {}, "docker": {}, "file_mounts": {}, "file_mounts_sync_continuously": False,
        **{name: [] for name in (*lists, *starts)},
    }  # fmt: skip
    path = temp / "autoscaler.json"
    path.write_text(json.dumps(config))
    return path


def _own_address() -> str:
    from ray._private.services import get_node_ip_address

    return str(get_node_ip_address())


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for item in sockets:
            item.bind(("", 0))
        return [item.getsockname()[1] for item in sockets]
    finally:
        for item in sockets:
            item.close()


def _end_with_parent() -> None:
    """Runs in the child before the command: a killed test run leaves no head behind."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM, 0, 0, 0)
