"""``tatara simulate``: what it prints, and that it stays light."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tatara.cli.command import call

ARGUMENTS = ["simulate", "--model", "llama3-8b", "--gpus", "8", "--staleness", "0,1", "--mean-tokens", "256",
             "--max-tokens", "1024", "--batches", "2", "--group-size", "4"]  # fmt: skip
RUN = {
    "engines": 1, "concurrency": 16, "groups_per_batch": 4, "group_size": 4, "staleness": 0, "lengths": [20, 30],
    "engine": [{"concurrency": 16, "tokens_per_second": 900}], "train": [{"tokens": 480, "seconds": 0.5}],
    "measured": {"batches_per_second": 1.0},
}  # fmt: skip


def test_a_sweep_shows_the_loop_its_plots_and_its_assumptions(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert call([*ARGUMENTS, "--plot", str(tmp_path)]) == 0
    output = capsys.readouterr().out
    for part in ("llama3-8b on h100", "rollout + learner", "learner waits", "utilisation.svg", "35% of the bf16 peak"):
        assert part in output
    assert (tmp_path / "speed.svg").read_text().startswith("<svg")


def test_a_sweep_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert call([*ARGUMENTS, "--colocated", "--json"]) == 0
    page = json.loads(capsys.readouterr().out)
    assert [(item["gpus"], item["staleness"]) for item in page["points"]] == [(8, 0), (8, 1)]
    for item in page["points"]:
        assert sum(item["devices"].values()) == pytest.approx(1)
        assert item["max_staleness"] <= item["staleness"]


def test_a_measured_run_is_predicted(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text(json.dumps(RUN))
    assert call(["simulate", "--run", str(path)]) == 0
    assert "batches_per_second" in capsys.readouterr().out
    assert call(["simulate", "--run", str(path), "--staleness", "2", "--json"]) == 0
    page = json.loads(capsys.readouterr().out)
    assert page["compared"][0]["measured"] == 1.0
    assert page["staleness"]["2"]["batches_per_second"] > page["predicted"]["batches_per_second"]


def test_mistakes_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["simulate", "--gpus", "8"]) == 1
    assert call(["simulate", "--model", "llama3-8b", "--gpus", "2"]) == 1
    assert call(["simulate", "--run", "missing.json"]) == 1
    assert capsys.readouterr().err.count("\n") == 3
    assert call(["simulate", "--model", "llama3-8b", "--gpus", "8;16"]) == 2


def test_simulating_imports_nothing_heavy() -> None:
    code = (
        "import sys; from tatara.cli.command import call; "
        f"call({ARGUMENTS!r}); "
        "print([name for name in ('torch', 'ray', 'numpy', 'pyarrow', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
