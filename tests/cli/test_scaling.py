"""``tatara scaling``: its words, what they print, and mistakes."""

from pathlib import Path

import pytest
import yaml

from scaling.surfaces import REPLICATED, runs_of
from tatara.cli.command import call
from tatara.scaling.table import write_runs


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "runs.csv"
    write_runs(path, runs_of(REPLICATED, (1e19, 1e20, 1e21, 1e22), noise=0.001, reach=3))
    return path


def test_fit_prints_laws_and_predictions_and_writes_pictures(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "220")
    pairs = tmp_path / "pairs.csv"
    pairs.write_text("loss,accuracy\n3.0,0.26\n2.6,0.35\n2.3,0.55\n2.1,0.75\n2.0,0.83\n")
    line = ["scaling", "fit", str(table), "--budget", "1e23", "--bootstrap", "30", "--out", str(tmp_path / "out")]
    assert call([*line, "--accuracy", str(pairs), "--chance", "0.25"]) == 0
    output = capsys.readouterr().out
    for part in ("best tokens = a x compute^b", "alpha", "10x", "parametric", "isoflop over tokens", "accuracy", "%"):
        assert part in output
    assert {file.name for file in (tmp_path / "out").iterdir()} >= {"fit.json", "runs.csv", "scaling.html"}


def test_mix_prints_the_best_shares(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [f"{web},{1 - web:.1f},{2.0 + (web - 0.6) ** 2:.5f}" for web in (0.1, 0.3, 0.5, 0.7, 0.9)]
    table = tmp_path / "mixes.csv"
    table.write_text("\n".join(["mix.web,mix.code,loss.all", *rows]) + "\n")
    assert call(["scaling", "mix", str(table), "--bound", "web=0.2:0.8", "--bound", "code=0.2:0.8"]) == 0
    assert "web" in capsys.readouterr().out


def test_run_shows_the_plan_of_a_sweep(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "sweep.yaml"
    values = {
        "root": str(tmp_path / "root"),
        "tokens": "tokens/none@1",
        "vocab_size": 512,
        "sequence_length": 64,
        "budgets": [8e12],
        "sizes": ["200K", "400K", "800K"],
        "pretrain": {"global_batch_size": 8, "num_workers": 1},
    }
    page.write_text(yaml.safe_dump(values))
    assert call(["scaling", "run", "--config", str(page), "--dry-run"]) == 1
    assert "no artifact tokens/none@1" in capsys.readouterr().err
    written = yaml.safe_load((tmp_path / "root" / "sweeps" / "sweep.yaml").read_text())
    assert len(written["stages"]) == 4


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (["fit", "none.csv"], "cannot read none.csv"),
        (["mix", "none.csv"], "cannot read none.csv"),
        (["run", "--config", "none.yaml"], "none.yaml"),
        (["--input", "a=checkpoint/none@1"], "no artifact checkpoint/none@1"),
    ],
)
def test_mistakes_are_one_line(
    line: list[str],
    expected: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call(["scaling", *line]) == 1
    error = capsys.readouterr().err
    assert expected in error
    assert error.count("\n") == 1


def test_a_budget_that_is_no_budget_is_refused(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["scaling", "fit", str(table), "--budget", "-1"]) == 1
    assert "--budget must be positive" in capsys.readouterr().err
