"""The watcher of a private cluster, on processes without Ray."""

import os
import subprocess
import sys
from pathlib import Path

from tatara.cluster import guardian


def test_finds_by_environment_and_by_open_file_and_nothing_else(tmp_path):
    directory, other = tmp_path / "one", tmp_path / "one-more"
    directory.mkdir(), other.mkdir()
    marked = {**os.environ, guardian.MARK: str(directory)}
    elsewhere = {**os.environ, guardian.MARK: str(other)}
    with (directory / "log").open("w") as log, (other / "log").open("w") as other_log:
        children = [
            subprocess.Popen(["sleep", "60"], env=marked),
            subprocess.Popen(["sleep", "60"], stdout=log),
            subprocess.Popen(["sleep", "60"], env=elsewhere, stdout=other_log),
        ]
        # This process has the log open as well: the owner of a cluster does.
        try:
            found = guardian.members(str(directory), {os.getpid()})
            assert sorted(found) == sorted(child.pid for child in children[:2])
            guardian.sweep(str(directory), os.getpid())
            assert [child.wait(10) for child in children[:2]] == [-9, -9]
            assert children[2].poll() is None
            assert not directory.exists()
            assert other.exists()
        finally:
            for child in children:
                child.kill()
                child.wait()


def test_an_orderly_end_kills_nothing(tmp_path):
    bystander = subprocess.Popen(["sleep", "60"], env={**os.environ, guardian.MARK: str(tmp_path)})
    try:
        watcher = _watch(tmp_path)
        watcher.communicate(b"left in order\n", timeout=20)
        assert bystander.poll() is None
        assert tmp_path.exists()
        watcher = _watch(tmp_path)
        watcher.communicate(timeout=30)  # The owner's end of the pipe closes without a word.
        assert bystander.wait(10) == -9
        assert not tmp_path.exists()
    finally:
        bystander.kill()
        bystander.wait()


def _watch(directory: Path) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-I", "-S", guardian.__file__, str(directory), str(os.getpid())]
    return subprocess.Popen(command, stdin=subprocess.PIPE)
