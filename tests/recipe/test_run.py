"""Recipes run for real: two stages over a small corpus, skipped, changed, broken, interrupted and killed."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml

from corpus import write_corpus
from tatara.artifact import Store

pytestmark = pytest.mark.ray
TIMEOUT = 240


def recipe(tmp_path: Path, **config: object) -> Path:
    corpus = tmp_path / "corpus.jsonl"
    if not corpus.exists():
        write_corpus(corpus)
    path = tmp_path / "recipe.yaml"
    tokenize = {"vocab_size": 512, "sequence_length": 128, **config}
    stages = {
        "curate": {"config": {"corpus": str(corpus)}},
        "tokenize": {"inputs": {"documents": "curate"}, "config": tokenize},
    }
    path.write_text(yaml.safe_dump({"name": "small", "root": str(tmp_path / "root"), "stages": stages}))
    return path


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "tatara", *map(str, arguments)]


def tatara(*arguments: object, code: int = 0) -> str:
    done = subprocess.run(command(*arguments), capture_output=True, text=True, timeout=TIMEOUT, check=False)
    output = done.stdout + done.stderr
    assert done.returncode == code, output
    return output


def strays(root: Path) -> list[str]:
    """Processes that still have the root in their command line."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        line = " ".join(process.info["cmdline"] or [])
        if str(root) in line and process.pid != os.getpid():
            found.append(line)
    return found


def attempts(root: Path) -> list[Path]:
    return list(root.glob("*/.attempts/*"))


def test_run_skip_change_and_report(tmp_path: Path) -> None:
    root = tmp_path / "root"
    path = recipe(tmp_path)
    plan = tatara("run", path, "--dry-run")
    assert re.search(r"curate\s+run\s+documents/small@1\s+not there yet", plan)
    assert not root.exists(), "a dry run writes nothing"

    output = tatara("run", path)
    assert "curate: done" in output
    assert "tokenize: done" in output
    store = Store(root)
    assert store.open("tokens/small@1").verify() == []
    (run,) = (root / "runs" / "small").glob("*/run.json")
    record = json.loads(run.read_text())
    assert [stage["status"] for stage in record["stages"]] == ["done", "done"]
    assert (run.parent / "logs" / "curate.log").read_text()
    report = (run.parent / "report.html").read_text()
    assert "documents/small@1" in report
    assert "tokens/small@1" in report
    assert attempts(root) == []
    assert not list((root / "work").glob("*/"))

    again = tatara("run", path)
    assert "nothing to do: 2 of 2 stages" in again
    assert len(list((root / "runs" / "small").glob("*/run.json"))) == 1

    # Another vocabulary: the corpus is not curated again.
    changed = tatara("run", recipe(tmp_path, vocab_size=600))
    assert "curate: up to date" in changed
    assert "vocab_size 512 -> 600" in changed
    assert store.versions("documents", "small") == [1]
    assert store.versions("tokens", "small") == [1, 2]
    # And back: what was made before is still there.
    assert "nothing to do" in tatara("run", recipe(tmp_path))

    # A version that is fixed cannot be had with another content.
    loaded = yaml.safe_load(path.read_text())
    loaded["stages"]["curate"]["version"] = 1
    loaded["stages"]["curate"]["config"]["pipeline"] = {"length": {"min_characters": 200}}
    fixed = tmp_path / "fixed.yaml"
    fixed.write_text(yaml.safe_dump(loaded))
    refused = tatara("run", fixed, code=1)
    assert "documents/small@1 is there with another content (pipeline.length.min_characters 100 -> 200)" in refused
    assert "set version: 2" in refused

    # The corpus itself changed: everything that depends on it runs again.
    write_corpus(tmp_path / "corpus.jsonl", documents=30)
    plan = tatara("run", path, "--dry-run")
    assert re.search(r"curate\s+run\s+documents/small@2\s+raw files changed", plan)
    assert re.search(r"tokenize\s+run\s+tokens/small@3", plan)

    shown = tatara("show", "tokens/small@1", "--root", root)
    assert "documents: documents/small@1" in shown
    assert "corpus.jsonl" in shown
    assert "files have the hashes of the manifest" in tatara("verify", "tokens/small@1", "--root", root)
    (root / "tokens" / "small@1" / "train.bin").write_bytes(b"damaged")
    assert "train.bin" in tatara("verify", "tokens/small@1", "--root", root, code=1)


def test_only_and_from_need_what_comes_before(tmp_path: Path) -> None:
    path = recipe(tmp_path)
    output = tatara("run", path, "--only", "tokenize", code=1)
    assert "stage tokenize needs documents/small@1 of stage curate, which is not there" in output
    assert "did you mean 'tokenize'" in tatara("run", path, "--from", "tokenise", code=1)


def test_a_failing_stage_is_named_and_commits_nothing(tmp_path: Path) -> None:
    path = recipe(tmp_path)
    (tmp_path / "corpus.jsonl").write_text("")
    output = tatara("run", path, code=1)
    assert "error: stage curate failed: " in output
    assert "Traceback" not in output
    assert Store(tmp_path / "root").versions("documents", "small") == []
    assert attempts(tmp_path / "root") == []
    (run,) = (tmp_path / "root" / "runs" / "small").glob("*/run.json")
    assert json.loads(run.read_text())["status"] == "failed"
    assert (run.parent / "report.html").exists()


def wait_for(path: Path, pattern: str, process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + TIMEOUT
    while not list(path.glob(pattern)):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_stopped_in_the_middle_then_run_again(tmp_path: Path, how: signal.Signals) -> None:
    root = tmp_path / "root"
    path = recipe(tmp_path)
    process = subprocess.Popen(command("run", path), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    wait_for(root, "documents/.attempts/small@1-*/", process)
    stage = psutil.Process(process.pid).children()[0]
    time.sleep(1.5)
    family = [*stage.children(recursive=True), stage]
    process.send_signal(how)
    output, _ = process.communicate(timeout=120)
    _, alive = psutil.wait_procs(family, timeout=90)
    assert alive == []
    assert Store(root).versions("documents", "small") == []
    if how is not signal.SIGKILL:
        assert process.returncode == 130, output
        assert "interrupted" in output
        assert attempts(root) == []
        return
    # Nobody could clean up: the next run does.
    tatara("run", path, "--only", "curate")
    assert Store(root).open("documents/small@1").verify() == []
    assert attempts(root) == []


def test_two_runs_at_once(tmp_path: Path) -> None:
    root = tmp_path / "root"
    path = recipe(tmp_path)
    line = command("run", path, "--only", "curate")
    first = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    wait_for(root, "documents/.attempts/small@1-*/", first)
    second = tatara("run", path, code=1)
    assert re.search(rf"recipe 'small' is being run by process {first.pid} on .*: wait for it", second)
    stage = tatara("curate", "--root", root, "--name", "small", "--corpus", tmp_path / "corpus.jsonl", code=1)
    assert "curate of 'small' is being run by process" in stage
    output, _ = first.communicate(timeout=TIMEOUT)
    assert first.returncode == 0, output
    assert Store(root).open("documents/small@1").verify() == []


def test_the_same_on_s3(tmp_path: Path, s3_bucket: str) -> None:
    path = recipe(tmp_path)
    root = f"{s3_bucket}/{tmp_path.name}"
    environment = {**os.environ, "TATARA_CACHE": str(tmp_path / "cache")}
    line = command("run", path, "--root", root)
    done = subprocess.run(line, capture_output=True, text=True, timeout=TIMEOUT, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert Store(root).open("tokens/small@1").verify() == []
    done = subprocess.run(line, capture_output=True, text=True, timeout=TIMEOUT, env=environment, cwd=tmp_path)
    assert "nothing to do" in done.stdout


def test_an_unwritable_root_is_one_line(tmp_path: Path) -> None:
    output = tatara("run", recipe(tmp_path), "--root", "/proc/nowhere", code=1)
    assert re.search(r"error: cannot (make the directory|write) /proc/nowhere", output)
    assert "Traceback" not in output
