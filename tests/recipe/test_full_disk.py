"""A disk that is full, a quota that is reached: one line, and nothing that was there before is lost."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from corpus import write_corpus
from tatara.artifact import Draft, Store

pytestmark = pytest.mark.ray


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 600 kB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(place)], capture_output=True, text=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"cannot mount a small file system: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_a_full_artifact_root_is_one_line_and_loses_nothing(small_disk: Path, tmp_path: Path) -> None:
    store = Store(small_disk)
    attempt = store.begin(Draft("documents", "old", 1, "curate", "f"))
    (attempt.path / "kept").write_bytes(b"x" * 100_000)
    before = attempt.commit({}, 0.0)

    stages = {"curate": {"config": {"corpus": str(write_corpus(tmp_path / "corpus.jsonl", documents=75))}}}
    (small_disk / "filler").write_bytes(b"x" * 430_000)
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({"name": "full", "root": str(small_disk), "stages": stages}))
    command = [sys.executable, "-m", "tatara", "run", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 1, done.stdout
    assert "error: " in done.stderr
    assert "the disk is full" in done.stderr
    assert "Traceback" not in done.stderr
    assert store.versions("documents", "full") == []
    assert store.open("documents/old").verify() == []
    assert before.fingerprint == "f"

    (small_disk / "filler").unlink()
    done = subprocess.run([*command, "--root", str(tmp_path / "roomy")], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
