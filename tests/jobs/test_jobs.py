"""Stages as jobs of a Ray cluster that the test started: submitted by hand, and by a recipe."""

import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import yaml

from corpus import write_corpus
from engine.tiny_llama import write_tiny_llama
from ray_head import RayHead, ray_head
from s3 import free_port
from tatara import cluster
from tatara.artifact import Draft, Store
from tatara.cluster.jobs import FINAL
from train.tokens_cases import write_tokens

# On a slow machine a job needs a minute until its first line.
pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def head() -> Iterator[RayHead]:
    with ray_head(num_cpus=2) as started:
        yield started


def ray_job(head: RayHead, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "ray.scripts.scripts", "job", *arguments]
    environment = {**os.environ, **head.environment, "RAY_API_SERVER_ADDRESS": head.dashboard}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)


def job_file(tmp_path: Path, corpus: Path) -> Path:
    path = tmp_path / "curate.yaml"
    path.write_text(yaml.safe_dump({"name": "job", "root": str(tmp_path / "root"), "config": {"corpus": str(corpus)}}))
    return path


def test_ray_job_submit_runs_a_stage_with_logs_and_exit_status(head: RayHead, tmp_path: Path) -> None:
    job = job_file(tmp_path, write_corpus(tmp_path / "corpus.jsonl"))
    done = ray_job(head, "submit", "--working-dir", ".", "--", "python", "jobs/curate.py", "--config", str(job))
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    assert "[curate] committed documents/job@1" in output
    assert Store(tmp_path / "root").open("documents/job@1").verify() == []

    (tmp_path / "corpus.jsonl").write_text("")
    failed = ray_job(head, "submit", "--working-dir", ".", "--", "python", "jobs/curate.py", "--config", str(job))
    output = failed.stdout + failed.stderr
    assert failed.returncode != 0
    assert "error: " in output


def test_the_standard_library_is_not_shadowed_inside_a_job(head: RayHead) -> None:
    code = (
        "import platform, ray; ray.init(log_to_driver=False); f = ray.remote(lambda: __import__('platform').__file__); "
        "print('DRIVER', platform.__file__); print('WORKER', ray.get(f.remote())); import tatara"
    )
    handle = cluster.submit(head.dashboard, f'python -c "{code}"', working_dir=ROOT)
    output = "\n".join(handle.follow())
    assert handle.wait() == "SUCCEEDED", output
    for who in ("DRIVER", "WORKER"):
        (line,) = re.findall(rf"{who} (\S+)", output)
        assert line.endswith("/platform.py"), output
        assert "working_dir" not in line


def submit(head: RayHead, name: str, *entrypoint: str) -> None:
    submitted = ray_job(
        head, "submit", "--no-wait", "--submission-id", name, "--working-dir", ".", "--", "python", *entrypoint
    )
    assert submitted.returncode == 0, submitted.stderr


def wait_until(condition: Callable[[], object], what: str, head: RayHead, job: str, seconds: float = 300) -> None:
    """Wait for something that a job brings about; a job that has ended brings about nothing."""
    handle = cluster.attach_job(head.dashboard, job)
    deadline = time.monotonic() + seconds
    while not condition():
        lasts = handle.status not in FINAL and time.monotonic() < deadline
        assert lasts or condition(), f"{what}: {ray_job(head, 'logs', job).stdout}"
        time.sleep(0.5)


# Ray's own: of each node, or detached from the first job that used them and shared by all later ones.
RAYS_OWN = (
    "IDLE",
    "DashboardAgent",
    "RuntimeEnvAgent",
    "_AutoscalingCoordinatorActor",
    "_StatsActor",
    "PlacementGroup",
)


def idle(process: psutil.Process) -> bool:
    """Whether a process belongs to no job."""
    try:
        line = " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return True
    if line.startswith("ray::"):
        return line.removeprefix("ray::").startswith(RAYS_OWN)
    return "jobs/" not in line and "EngineCore" not in line


def free_cpus(head: RayHead) -> float:
    """Logical CPUs that nothing reserves."""
    code = "import ray; ray.init(log_to_driver=False); print('FREE', ray.available_resources().get('CPU', 0))"
    environment = {**os.environ, **head.environment, "RAY_ADDRESS": head.address}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    return float(done.stdout.split("FREE ")[1].split()[0])


def stop_and_check(head: RayHead, job: str, before: set[int]) -> None:
    """Stop a job as its user would, then see that no process of it is left."""
    stopped = ray_job(head, "stop", job)
    assert stopped.returncode == 0, stopped.stderr

    def left() -> list[psutil.Process]:
        return [process for process in head.processes() if process.pid not in before and not idle(process)]

    deadline = time.monotonic() + 90
    while left():
        assert time.monotonic() < deadline, [process.cmdline() for process in left()]
        time.sleep(0.2)
    # The head hears of it a moment later.
    while (free := free_cpus(head)) != 2.0:
        assert time.monotonic() < deadline, free


def test_ray_job_stop_ends_a_data_stage(head: RayHead, tmp_path: Path) -> None:
    before = {process.pid for process in head.processes()}
    job = job_file(tmp_path, write_corpus(tmp_path / "corpus.jsonl", documents=70))
    submit(head, "stop-curate", "jobs/curate.py", "--config", str(job))
    root = tmp_path / "root"
    wait_until(lambda: list(root.glob("documents/.attempts/*/")), "no attempt", head, "stop-curate")
    stop_and_check(head, "stop-curate", before)
    assert Store(root).versions("documents", "job") == []
    assert list(root.glob("documents/.attempts/*/")) == []


def test_ray_job_stop_ends_training_and_its_workers(head: RayHead, tmp_path: Path) -> None:
    before = {process.pid for process in head.processes()}
    root = tmp_path / "root"
    attempt = Store(root).begin(Draft("tokens", "t", 1, "tokenize", "0" * 64))
    shutil.copytree(write_tokens(tmp_path / "tokens"), attempt.path, dirs_exist_ok=True)
    attempt.commit({}, 1.0)
    line = (
        *("--root", str(root), "--name", "t", "--input", "tokens=tokens/t@1", "--steps", "100000"),
        *("--model.hidden_size", "64", "--model.ffn_hidden_size", "96", "--model.num_layers", "2"),
    )
    submit(head, "stop-pretrain", "jobs/pretrain.py", *line)

    def trains() -> bool:
        return any("train.loss" in path.read_text() for path in root.glob("work/pretrain-*/metrics.jsonl"))

    wait_until(trains, "no step", head, "stop-pretrain")
    stop_and_check(head, "stop-pretrain", before)
    assert Store(root).versions("checkpoint", "t") == []


def test_ray_job_stop_ends_a_server_and_its_engine(head: RayHead, tmp_path: Path) -> None:
    before = {process.pid for process in head.processes()}
    model, port = write_tiny_llama(tmp_path / "tiny"), free_port()
    submit(head, "stop-serve", "jobs/serve.py", "--model", str(model), "--port", str(port))

    def answers() -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models", timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    wait_until(answers, "no answer", head, "stop-serve")
    stop_and_check(head, "stop-serve", before)
    assert not answers()


def test_a_recipe_is_submitted_stage_by_stage(head: RayHead, tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus.jsonl")
    stages = {
        "curate": {"config": {"corpus": str(corpus)}},
        "tokenize": {"inputs": {"documents": "curate"}, "config": {"vocab_size": 512, "sequence_length": 128}},
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({"name": "far", "root": str(tmp_path / "root"), "stages": stages}))
    environment = {**os.environ, **head.environment}
    command = [sys.executable, "-m", "tatara", "run", str(path), "--address", head.dashboard]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "tokenize: done" in done.stdout
    assert Store(tmp_path / "root").open("tokens/far@1").verify() == []
    log = next((tmp_path / "root" / "runs" / "far").glob("*/logs/tokenize.log")).read_text()
    assert "[tokenize] committed tokens/far@1" in log

    corpus.write_text("")
    failed = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=400, check=False
    )
    assert failed.returncode == 1
    assert "error: stage curate failed: " in failed.stderr


def test_no_cluster_at_the_address_is_one_line(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus.jsonl")
    path = tmp_path / "recipe.yaml"
    stages = {"curate": {"config": {"corpus": str(corpus)}}}
    path.write_text(yaml.safe_dump({"name": "far", "root": str(tmp_path / "root"), "stages": stages}))
    command = [sys.executable, "-m", "tatara", "run", str(path), "--address", "http://127.0.0.1:1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "error: no Ray dashboard answers at http://127.0.0.1:1" in done.stderr
    assert "Traceback" not in done.stderr
