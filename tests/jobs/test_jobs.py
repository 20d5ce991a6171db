"""Stages as jobs of a Ray cluster that the test started: submitted by hand, and by a recipe."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import yaml

from corpus import write_corpus
from ray_head import RayHead, ray_head
from tatara import cluster
from tatara.artifact import Store

pytestmark = [pytest.mark.ray, pytest.mark.slow]
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


def test_ray_job_stop_leaves_nothing_running(head: RayHead, tmp_path: Path) -> None:
    before = {process.pid for process in head.processes()}
    job = job_file(tmp_path, write_corpus(tmp_path / "corpus.jsonl", documents=70))
    submitted = ray_job(
        head, "submit", "--no-wait", "--submission-id", "stop-me", "--working-dir", ".", "--",
        "python", "jobs/curate.py", "--config", str(job),
    )  # fmt: skip
    assert submitted.returncode == 0, submitted.stderr
    root = tmp_path / "root"
    deadline = time.monotonic() + 120
    while not list(root.glob("documents/.attempts/*/")):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    stopped = ray_job(head, "stop", "stop-me")
    assert stopped.returncode == 0, stopped.stderr
    deadline = time.monotonic() + 60
    while ours := [
        process
        for process in psutil.process_iter(["cmdline"])
        if "jobs/curate.py" in " ".join(process.info["cmdline"] or []) and process.pid not in before
    ]:
        assert time.monotonic() < deadline, ours
        time.sleep(0.2)
    assert Store(root).versions("documents", "job") == []
    assert list(root.glob("documents/.attempts/*/")) == []


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
