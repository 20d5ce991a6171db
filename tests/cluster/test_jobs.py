"""A running head: attaching to it with and without its token, and jobs that are submitted, followed and stopped."""

import os
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import psutil
import pytest

import tatara
from ray_head import ray_head
from tatara import cluster
from tatara.cluster import jobs
from tatara.errors import ClusterError

pytestmark = pytest.mark.ray

PACKAGE = Path(tatara.__file__).resolve().parent

PROLOGUE = """
import os, subprocess, sys, time
from pathlib import Path
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "platform"))
from tatara import cluster
from tatara.cluster import jobs
view = cluster.connect()
import ray
"""

REPORT = """
@ray.remote
def where():
    import platform, tatara
    return tatara.__file__, platform.__file__, os.environ.get("TATARA_TEST")
package, standard, given = ray.get(where.remote())
import platform
print("worker:", package, standard, given)
print("driver:", platform.__file__, view.owned, flush=True)
for index in range(3):
    print("line", index, flush=True)
    time.sleep(0.3)
print("no newline at the end", end="")
sys.exit(int(sys.argv[1]))
"""

STAGE = """
@ray.remote(num_cpus=0.1)
class Engine:
    def start(self, new_session):
        self.process = subprocess.Popen(["sleep", "600"], start_new_session=new_session)
        return [os.getpid(), self.process.pid]
    def work(self):
        time.sleep(600)

engines = [Engine.remote() for _ in range(2)]
numbers = sum(ray.get([engine.start.remote(bool(index)) for index, engine in enumerate(engines)]), [os.getpid()])
for new_session in (False, True):
    numbers.append(subprocess.Popen(["sleep", "600"], start_new_session=new_session).pid)
print("PIDS", *numbers, flush=True)
ray.get([engine.work.remote() for engine in engines])
"""


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """A small working directory laid out like the repository."""
    root = tmp_path_factory.mktemp("checkout")
    keep = shutil.ignore_patterns("__pycache__")
    shutil.copytree(PACKAGE / "cluster", root / "platform" / "tatara" / "cluster", ignore=keep)
    for name in ("__init__.py", "errors.py"):
        shutil.copy(PACKAGE / name, root / "platform" / "tatara" / name)
    (root / "jobs").mkdir()
    (root / "jobs" / "report.py").write_text(PROLOGUE + REPORT)
    (root / "jobs" / "stage.py").write_text(PROLOGUE + STAGE)
    (root / ".tatara").mkdir()
    (root / ".tatara" / "artifact.bin").write_bytes(b"x")
    (root / "listing.py").write_text("import os; print(sorted(os.listdir('.')))")
    return root


def test_a_job_runs_the_sent_code_and_its_log_comes_whole(head, checkout):
    job = cluster.submit(
        head.dashboard,
        "python jobs/report.py 0",
        working_dir=checkout,
        env_vars={"TATARA_TEST": "given"},
        submission_id="report",
        metadata={"stage": "report"},
    )
    lines = list(job.follow())
    assert (job.status, job.exit_code) == ("SUCCEEDED", 0)
    (worker,) = [line for line in lines if line.startswith("worker:")]
    _, package, standard, given = worker.split()
    assert "_ray_pkg_" in package
    assert package.endswith("platform/tatara/__init__.py")
    assert Path(standard).parent == Path(os.__file__).parent
    assert given == "given"
    (driver,) = [line for line in lines if line.startswith("driver:")]
    assert driver == f"driver: {standard} False"
    assert [line for line in lines if line.startswith("line")] == ["line 0", "line 1", "line 2"]
    assert lines[-1] == "no newline at the end"
    # Attached to once it is over, the log is there again and the same.
    again = cluster.attach_job(head.dashboard, "report")
    assert list(again.follow()) == lines
    assert again.stop() == "SUCCEEDED"
    with pytest.raises(ClusterError, match=f"there is already a job named report at {head.dashboard}"):
        cluster.submit(head.dashboard, "true", submission_id="report")


def test_a_log_whose_connection_is_renewed_comes_whole_and_once(head, monkeypatch):
    monkeypatch.setattr(jobs, "_QUIET_SECONDS", 1.5)
    job = cluster.submit(head.dashboard, "for i in 1 2 3; do echo line $i; sleep 4; done")
    assert [line for line in job.follow() if line.startswith("line")] == ["line 1", "line 2", "line 3"]


def test_a_failing_job_has_its_exit_code(head, checkout):
    job = cluster.submit(head.dashboard, "python jobs/report.py 3", working_dir=checkout)
    assert job.wait(timeout_s=120) == "FAILED"
    assert job.exit_code == 3
    assert "exit code 3" in job.message


def test_what_is_excluded_stays_behind(head, checkout):
    job = cluster.submit(head.dashboard, "python listing.py", working_dir=checkout)
    assert "['jobs', 'listing.py', 'platform']" in list(job.follow())


def test_stopping_a_job_ends_everything_it_started(head, checkout):
    job = cluster.submit(head.dashboard, "python jobs/stage.py", working_dir=checkout)
    line = next(line for line in job.follow() if line.startswith("PIDS"))
    started = [psutil.Process(int(number)) for number in line.split()[1:]]
    assert len(started) == 7
    with pytest.raises(ClusterError, match=r"is still RUNNING after 0 s"):
        job.wait(timeout_s=0)
    assert job.stop() == "STOPPED"
    _, alive = psutil.wait_procs(started, timeout=30)
    assert alive == []


def test_attached_from_outside_workers_run_this_code(head, disconnected, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", head.address)
    view = cluster.connect()
    import ray

    @ray.remote
    def where():
        import tatara.cluster.packing as packing

        return packing.__file__

    assert not view.owned
    assert view.total("CPU") == 2
    sent = Path(ray.get(where.remote()))
    assert "py_modules_files" in sent.parts
    assert sent.read_bytes() == (PACKAGE / "cluster" / "packing.py").read_bytes()
    cluster.disconnect()
    assert cluster.connect(head.address).nodes  # It goes on without us.


@pytest.mark.parametrize(
    ("token", "line"),
    [("0" * 64, "refuses the token"), (None, "asks for a token: set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH")],
)
def test_without_the_right_token(head, disconnected, monkeypatch, tmp_path, token, line):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("RAY_AUTH_MODE")
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH")
    if token is not None:
        (tmp_path / ".ray").mkdir()
        (tmp_path / ".ray" / "auth_token").write_text(token)
    with pytest.raises(ClusterError, match=line):
        cluster.connect(head.address)
    with pytest.raises(ClusterError, match=line):
        cluster.submit(head.dashboard, "true")


def test_a_directory_that_is_too_large_is_named_with_its_largest_parts(head, tmp_path):
    (tmp_path / "corpus").mkdir()
    with (tmp_path / "corpus" / "pages.bin").open("wb") as file:
        for _ in range(11):
            file.write(os.urandom(10 << 20))
    with pytest.raises(ClusterError, match=rf"^{tmp_path} is too large to send .*corpus \(110 MiB\)") as caught:
        cluster.submit(head.dashboard, "true", working_dir=tmp_path)
    assert "\n" not in str(caught.value)


def test_a_directory_that_is_not_there(tmp_path):
    with pytest.raises(ClusterError, match=f"no directory at {tmp_path}/none"):
        cluster.submit("http://127.0.0.1:1", "true", working_dir=tmp_path / "none")


def test_addresses_that_take_no_jobs(head):
    with socket.create_server(("127.0.0.1", 0)) as silent, http_server(404) as other:
        port = silent.getsockname()[1]
        for address, line in {
            "http://127.0.0.1:1": "no Ray dashboard answers at http://127.0.0.1:1 ",
            f"http://127.0.0.1:{port}": f"no Ray dashboard answers at http://127.0.0.1:{port} .ReadTimeout",
            f"http://{head.address}": "no Ray dashboard answers at ",
            other: r"is not a Ray dashboard \(HTTP 404",
            head.address: "is not the address of a dashboard: give http://HOST:PORT",
        }.items():
            with pytest.raises(ClusterError, match=line):
                cluster.submit(address, "true")


def test_the_environment_does_not_redirect_a_submission(head, monkeypatch):
    """Ray's client prefers what RAY_ADDRESS names to the address it is given."""
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:1")
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:1")
    job = cluster.submit(head.dashboard, "echo here")
    assert job.wait(120) == "SUCCEEDED"
    assert os.environ["RAY_ADDRESS"] == "http://127.0.0.1:1"


def test_a_job_that_does_not_exist(head):
    with pytest.raises(ClusterError, match=r"job nobody at .*does not exist"):
        cluster.attach_job(head.dashboard, "nobody")


def test_a_head_without_tokens_takes_a_client_that_has_one_and_ends_with_all_its_processes(monkeypatch, tmp_path):
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("0" * 64)
    with ray_head(token=False) as running, monkeypatch.context() as patch:
        patch.setenv("HOME", str(tmp_path))
        patch.delenv("RAY_AUTH_MODE")
        patch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
        assert cluster.connect(running.address).nodes
        cluster.disconnect()
        job = cluster.submit(running.dashboard, "sleep 600")
        deadline = time.monotonic() + 60
        while job.status != "RUNNING" and time.monotonic() < deadline:
            time.sleep(0.2)
        processes = [running.process, *running.processes()]
        assert len(processes) > 5
    assert [process for process in processes if process.is_running()] == []
    assert not running.temp.exists()
    with pytest.raises(ClusterError, match="no longer answers about job"):
        _ = job.status


@contextmanager
def http_server(status: int) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(status)

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
