"""Private clusters: what they give, what they leave behind, and how they end with their owner."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil
import pytest

import tatara
from tatara import cluster
from tatara.cluster import guardian
from tatara.errors import ClusterError

ROOT = Path(tatara.__file__).resolve().parent.parent


def test_importing_the_package_imports_no_ray():
    code = "import sys, tatara.cluster; print('ray' in sys.modules)"
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=_environment()
    )
    assert answer.stdout.strip() == "False"


@pytest.mark.ray
def test_private_cluster_from_start_to_end(disconnected, monkeypatch):
    # An address in the environment must not win over an explicit wish, nor be lost by it.
    monkeypatch.setenv("RAY_ADDRESS", "192.0.2.1:6379")
    before = dict(os.environ)
    printed: list[str] = []
    view = cluster.connect("local", num_cpus=3, worker_output=printed.append)
    import ray

    @ray.remote(num_cpus=1)
    def where():
        import platform

        import tatara

        print("hello from a worker")
        return tatara.__file__, platform.__file__

    assert view.owned
    assert view.total("CPU") == 3
    assert "private local cluster: 1 node with 3 CPU" in view.describe()
    assert cluster.connect().address == view.address
    package, standard = ray.get(where.remote())
    assert package == tatara.__file__
    assert Path(standard).parent == Path(os.__file__).parent
    token = Path(os.environ["RAY_AUTH_TOKEN_PATH"])
    assert token.stat().st_mode & 0o777 == 0o600
    started = [psutil.Process(number) for number in guardian.members(str(token.parent), {os.getpid()})]
    assert {"gcs_server", "raylet"} <= {process.name() for process in started}
    deadline = time.monotonic() + 20
    while not printed and time.monotonic() < deadline:
        time.sleep(0.1)
    assert [line.split(") ")[1] for line in printed] == ["hello from a worker"]

    cluster.disconnect()
    cluster.disconnect()
    assert not cluster.is_connected()
    assert not token.parent.exists()
    _, alive = psutil.wait_procs(started, timeout=10)
    assert alive == []
    changed = {name for name in before.keys() | os.environ.keys() if before.get(name) != os.environ.get(name)}
    assert changed <= {"RAY_CLIENT_MODE", "PYTHONBREAKPOINT"}  # Ray's own notes to itself.


@pytest.mark.ray
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_process_outlives_its_owner(owner_script, tmp_path, how):
    errors = tmp_path / "errors.txt"
    with errors.open("w") as stderr:
        owner = subprocess.Popen(owner_script, stdout=subprocess.PIPE, stderr=stderr, text=True, env=_environment())
    try:
        assert owner.stdout is not None
        engine = psutil.Process(int(owner.stdout.readline()))
        started = psutil.Process(owner.pid).children(recursive=True)
        assert engine in started
        assert len(_directories(owner.pid)) == 1
        assert _stopped(owner, how) == {signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGINT: 1}[how]
    finally:
        owner.kill()
    _, alive = psutil.wait_procs(started, timeout=25)
    assert [process.name() for process in alive] == []
    assert _directories(owner.pid) == []
    # No stack trace of C++ frames, no complaint of Ray's: at most our own KeyboardInterrupt.
    assert "SIGTERM received" not in errors.read_text()
    assert "Error" not in errors.read_text()


def _stopped(owner: "subprocess.Popen[str]", how: signal.Signals) -> int:
    """The exit status; the signal is sent again when nobody heeds it, as whoever sits at the terminal would.

    Python prints and forgets a KeyboardInterrupt that is raised while an object is finalised.
    """
    for _ in range(3):
        owner.send_signal(how)
        with contextlib.suppress(subprocess.TimeoutExpired):
            return owner.wait(timeout=30)
    raise AssertionError(f"signal {how} was sent three times")


@pytest.mark.ray
def test_a_cluster_that_cannot_start_is_one_line(disconnected, monkeypatch, tmp_path):
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    before = dict(os.environ)
    with pytest.raises(ClusterError, match=r"^cannot start a local Ray cluster in /tmp/\S+: .+$"):
        cluster.connect(num_cpus=-1)
    assert dict(os.environ) == before
    assert not cluster.is_connected()
    assert _directories(os.getpid()) == []


def test_only_the_main_thread_may_own_a_cluster():
    """The kernel ends a child with the thread that started it, so the cluster would die early and silently."""
    caught: list[BaseException] = []

    def start() -> None:
        try:
            cluster.connect()
        except RuntimeError as error:
            caught.append(error)

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    assert "main thread" in str(caught[0])


@pytest.mark.parametrize(
    ("address", "line"),
    [
        ("127.0.0.1:1", "no Ray cluster answers at 127.0.0.1:1 .*: check the address, or start one"),
        ("nonsense", "'nonsense' is not a Ray address: give HOST:PORT, or auto"),
        ("http://127.0.0.1:8265", "give HOST:PORT of the Ray head .* is for submitting jobs"),
        ("ray://127.0.0.1:10001", "give HOST:PORT of the Ray head"),
    ],
)
def test_address_that_is_none(address, line):
    with pytest.raises(ClusterError, match=line) as caught:
        cluster.connect(address)
    assert "\n" not in str(caught.value)
    assert not cluster.is_connected()


@pytest.mark.timeout(60)
def test_something_that_listens_but_never_answers():
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(ClusterError, match=f"what listens at {address} is not the head of a Ray cluster"):
            cluster.connect(address)


def test_view_without_a_connection():
    with pytest.raises(ClusterError, match="not connected"):
        cluster.view()


def _directories(owner: int) -> list[Path]:
    parents = {Path("/tmp"), Path(tempfile.gettempdir())}
    return [found for parent in parents for found in parent.glob(f"tatara-{owner}-*")]


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}
