import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from tatara.tracking import environment


def test_it_describes_this_machine() -> None:
    found = environment()
    assert found["python"] == platform.python_version()
    assert found["cores"] == len(os.sched_getaffinity(0))
    assert found["packages"]["pydantic"] == importlib.metadata.version("pydantic")
    assert found["memory_bytes"] > 2**28
    assert isinstance(found["gpus"], list)
    assert found["cpu"]


def test_it_imports_none_of_what_it_lists() -> None:
    program = (
        "import sys; from tatara.tracking import environment; environment(); "
        "print(sorted({'torch', 'ray', 'vllm', 'wandb', 'numpy', 'pydantic', 'pyarrow'} & set(sys.modules)))"
    )
    path = str(Path(__file__).parents[2] / "platform")
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=dict(os.environ, PYTHONPATH=path),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"


def test_the_commit_and_whether_files_differ_from_it(tmp_path: Path) -> None:
    assert environment(tmp_path)["git_commit"] is None

    def git(*words: str) -> str:
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        return subprocess.run(
            ["git", *identity, *words], cwd=tmp_path, capture_output=True, text=True, check=True
        ).stdout.strip()

    git("init", "-q")
    (tmp_path / "a").write_text("1")
    git("add", "a")
    git("commit", "-q", "-m", "m")
    head = git("rev-parse", "HEAD")
    assert environment(tmp_path)["git_commit"] == head
    (tmp_path / "a").write_text("2")
    assert environment(tmp_path)["git_commit"] == head + "+changes"


def test_gpus_are_what_nvidia_smi_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'NVIDIA H200, 143771 MiB'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert environment()["gpus"] == ["NVIDIA H200, 143771 MiB"]
    tool.write_text("#!/bin/sh\nexit 9\n")
    assert environment()["gpus"] == []
