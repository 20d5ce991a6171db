"""Figures of a run read from a file, and its prediction against figures that another run of the model gave."""

import json
from pathlib import Path
from typing import Any

import pytest

from tatara.errors import ConfigError
from tatara.rl.simulation.calibration import compare, read_run
from tatara.rl.simulation.events import simulate
from tatara.rl.simulation.loop import EngineCurve, LearnerCurve

CURVE = EngineCurve(0.01, 0.0004)


def figures(**changed: Any) -> dict[str, Any]:
    """Of a run with one engine and 16 responses per batch."""
    return {
        "engines": 1, "concurrency": 16, "groups_per_batch": 4, "group_size": 4, "staleness": 0,
        "engine": [{"concurrency": n, "tokens_per_second": CURVE.tokens_per_second(n)} for n in (4, 16)],
        "lengths": [20], "prompt_tokens": 10,
        "train": [{"tokens": 480, "seconds": 0.5}, {"tokens": 960, "seconds": 0.8}],
        "publish_seconds": 0.02, "load_seconds": 0.01, **changed,
    }  # fmt: skip


def write(path: Path, values: Any) -> Path:
    path.write_text(json.dumps(values))
    return path


def test_the_prediction_follows_from_the_figures(tmp_path: Path) -> None:
    cycle = 20 * CURVE.step(16) + 0.5 + 0.02 + 0.01
    measured = {"batches_per_second": 1.1 / cycle, "train": 0.5 / cycle, "mean_staleness": 0.0}
    run = read_run(write(tmp_path / "run.json", figures(measured=measured)))
    made = run.loop()
    assert made.learner == LearnerCurve(pytest.approx(0.2), pytest.approx(0.3 / 480))
    compared = {item.name: item for item in compare(run, simulate(made))}
    assert set(compared) == set(measured)
    assert compared["batches_per_second"].predicted == pytest.approx(1 / cycle)
    assert compared["batches_per_second"].off == pytest.approx(1 / 1.1 - 1)
    assert compared["train"].off == pytest.approx(0, abs=1e-9)
    assert run.loop(2).staleness == 2


@pytest.mark.parametrize(
    ("values", "named"),
    [
        (figures(group_sise=4), "group_size"),
        (figures(lengths=[]), "lengths"),
        (figures(engine=[{"concurrency": 4, "tokens_per_second": 0}]), "tokens_per_second"),
        ([1], "mapping"),
    ],
    ids=["key", "lengths", "speed", "list"],
)
def test_wrong_figures_are_named(tmp_path: Path, values: Any, named: str) -> None:
    with pytest.raises(ConfigError, match=named) as error:
        read_run(write(tmp_path / "run.json", values))
    assert "run.json" in str(error.value)


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        read_run(tmp_path / "none.json")
    (tmp_path / "half.json").write_text("{")
    with pytest.raises(ConfigError, match="not valid JSON"):
        read_run(tmp_path / "half.json")
