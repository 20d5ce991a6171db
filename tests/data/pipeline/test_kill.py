"""kill -9 of the driver, and of the processes that do its work: nothing is lost, doubled or done twice."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest

from corpus import topics
from ray_head import ray_head
from tatara.artifact import Artifact, Store

pytestmark = [pytest.mark.ray, pytest.mark.slow]
SHARDS = 12


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of mutated prose with near copies across them."""
    directory = tmp_path_factory.mktemp("corpus")
    rng = random.Random(0)
    texts = [text for _, text in sorted(topics().items()) if len(text) > 1000]
    words = sorted({word for text in texts[:20] for word in text.split()})
    for shard in range(SHARDS):
        lines = []
        for number in range(40):
            text = texts[(shard * 7 + number) % len(texts)][:6000].split(" ")
            if number % 5 == 1:
                text.append(f"and shard {shard} says so")
            elif number % 5:
                text = [rng.choice(words) if rng.random() < 0.3 else word for word in text]
            lines.append(json.dumps({"id": f"{shard}-{number}", "text": " ".join(text)}))
        (directory / f"{shard:02d}.jsonl").write_text("\n".join(lines))
    return directory


def start(corpus: Path, root: Path, *more: str) -> subprocess.Popen[str]:
    pipeline = json.dumps(["repair", "length", "language", "gopher_repetition", "exact_dedup", "fuzzy_dedup"])
    line = ["curate", "--corpus", str(corpus), "--root", str(root), "--name", "k", "--shard_bytes", "220000"]
    command = [sys.executable, "-m", "tatara", *line, "--pipeline", pipeline, *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(process: subprocess.Popen[str], root: Path) -> Artifact:
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return Store(str(root)).open("documents/k")


def content(artifact: Artifact) -> list[dict[str, Any]]:
    found = []
    for folder in ("documents", "decisions"):
        found += [row for e in artifact.files(folder) for row in pq.read_table(artifact.local(e.path)).to_pylist()]
    return found


def when(found: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Wait, while the process runs, until something is there."""
    deadline = time.monotonic() + 120
    while not found():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def summaries(root: Path) -> list[Path]:
    return sorted(root.glob("work/curate-k-*/shards-*/pass-1/summary-*.pickle"))


@pytest.fixture(scope="module")
def undisturbed(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    root = tmp_path_factory.mktemp("undisturbed")
    found = content(finish(start(corpus, root), root))
    assert {"exact_dedup", "fuzzy_dedup"} <= {row.get("step") for row in found}
    return found


def test_the_driver_is_killed(corpus: Path, undisturbed: list[dict[str, Any]], tmp_path: Path) -> None:
    process = start(corpus, tmp_path)
    when(lambda: len(summaries(tmp_path)) >= 3, process)
    process.kill()
    process.wait()
    done = {path: path.stat().st_mtime_ns for path in summaries(tmp_path)}
    assert len(done) >= 3
    again = start(corpus, tmp_path)
    # What was finished is not done again.
    when(lambda: len(summaries(tmp_path)) == SHARDS, again)
    assert {path: path.stat().st_mtime_ns for path in done} == done
    assert content(finish(again, tmp_path)) == undisturbed


def test_workers_are_killed(corpus: Path, undisturbed: list[dict[str, Any]], tmp_path: Path) -> None:
    process = start(corpus, tmp_path)
    when(lambda: len(summaries(tmp_path)) >= 2, process)
    killed = 0
    for worker in psutil.Process(process.pid).children(recursive=True):
        try:
            # The title of a worker names the task that it is at, or was a moment ago. Ray's own agents stay.
            title = worker.cmdline()[:1]
            if title and title[0].startswith(("ray::IDLE", "ray::shard")):
                os.kill(worker.pid, signal.SIGKILL)
                killed += 1
        except (psutil.NoSuchProcess, ProcessLookupError):
            continue
    assert killed
    artifact = finish(process, tmp_path)
    assert content(artifact) == undisturbed


def test_a_node_is_lost(corpus: Path, undisturbed: list[dict[str, Any]], tmp_path: Path) -> None:
    with ray_head(num_cpus=1, dashboard=False) as head:
        line = [sys.executable, "-m", "ray.scripts.scripts", "start", "--address", head.address, "--num-cpus=1"]
        node = subprocess.Popen([*line, "--block"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert node.stdout is not None
        try:
            while "Ray runtime started" not in (said := node.stdout.readline()):
                assert said, "the second node did not start"
            process = start(corpus, tmp_path, "--address", head.address)
            when(lambda: len(summaries(tmp_path)) >= 4, process)
        finally:
            for member in [*psutil.Process(node.pid).children(recursive=True), psutil.Process(node.pid)]:
                member.kill()
            node.wait()
        artifact = finish(process, tmp_path)
    assert content(artifact) == undisturbed
