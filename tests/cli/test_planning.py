"""``tatara plan``: what it prints, and that it stays light."""

import json
import subprocess
import sys

import pytest

from tatara.cli.command import call

ARGUMENTS = ["plan", "--model", "llama3-8b", "--gpus", "16", "--seq", "8192", "--batch-tokens", "1M"]


def test_the_plan_shows_layouts_memory_time_and_assumptions(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert call([*ARGUMENTS, "--top", "3"]) == 0
    output = capsys.readouterr().out
    for part in ("16 h100", "1,048,576 per step", "slower by", "optimizer", "alone it takes", "MFU counts model FLOPs"):
        assert part in output


def test_the_plan_as_json_adds_up(capsys: pytest.CaptureFixture[str]) -> None:
    assert call([*ARGUMENTS, "--json", "--top", "2", "--tp", "2", "--hardware", "h200"]) == 0
    page = json.loads(capsys.readouterr().out)
    assert page["hardware"]["name"] == "h200"
    assert len(page["layouts"]) == 2
    for item in page["layouts"]:
        assert item["layout"]["tp"] == 2
        assert sum(item["seconds"].values()) == pytest.approx(item["step_seconds"])
        speed = page["flops_per_token"] * item["tokens_per_second"] / 16 / 1e12
        assert item["tflops_per_gpu"] == pytest.approx(speed)
        memory = item["memory_bytes"]
        assert memory["total"] == pytest.approx(sum(size for name, size in memory.items() if name != "total"))


def test_mistakes_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["plan", "--gpus", "8", "--seq", "8192", "--batch-tokens", "1M"]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert call(["plan", "--model", "llama3-8b", "--gpus", "0", "--seq", "8192", "--batch-tokens", "1M"]) == 2


def test_planning_imports_nothing_heavy() -> None:
    code = (
        "import sys; from tatara.cli.command import call; "
        f"call({ARGUMENTS!r}); "
        "print([name for name in ('torch', 'ray', 'numpy', 'pyarrow', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
