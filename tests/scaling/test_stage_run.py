"""The stage: from checkpoints' figures to a committed fit with pictures."""

import json
import math
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from scaling.surfaces import REPLICATED, runs_of
from tatara.artifact import Artifact, Draft, Store
from tatara.errors import DataError
from tatara.scaling.stage import STAGE, ScalingConfig
from tatara.scaling.stage_run import run
from tatara.scaling.table import read_runs
from tatara.stage.running import standalone


def checkpoints(root: Path, budgets: tuple[float, ...]) -> dict[str, Artifact]:
    """Committed checkpoints whose figures follow a known law."""
    store, found = Store(root), {}
    for index, point in enumerate(runs_of(REPLICATED, budgets, noise=0.001, reach=4)):
        attempt = store.begin(Draft("checkpoint", f"run-{index}", 1, "pretrain", f"{index:064x}"))
        figures = {"parameters": round(point.parameters), "tokens": round(point.tokens), "validation_loss": point.loss}
        found[f"run-{index}"] = attempt.commit(figures, 1.0)
    return found


def test_the_stage_fits_its_checkpoints(tmp_path: Path) -> None:
    inputs = checkpoints(tmp_path, (1e18, 1e19, 1e20, 1e21))
    config = ScalingConfig(budgets=(1e22,), bootstrap=40)
    with standalone(STAGE, config, inputs=inputs, root=tmp_path) as opened:
        summary = run(config, opened.stage_run)
        made = opened.commit(summary)
    assert made.kind == "scaling"
    assert made.verify() == []
    assert made.metrics["runs"] == 36
    page = made.read_json("fit.json")
    assert len(page["predictions"]) == 3
    exponent = page["isoflop"]["parameters"]["law"]["exponent"]
    assert exponent["low"] <= 0.3658 / (0.3478 + 0.3658) <= exponent["high"]
    assert len(read_runs(made.local("runs.csv"))) == 36
    for name in ("isoflop-tokens", "isoflop-parameters", "law-tokens", "law-parameters"):
        picture = ElementTree.fromstring(made.local(f"{name}.svg").read_text())
        numbers = [float(place) for item in picture.iter() for key, place in item.attrib.items() if key in ("cx", "cy")]
        assert numbers
        assert all(math.isfinite(place) and 0 <= place <= 760 for place in numbers)
    assert "Scaling laws" in made.local("scaling.html").read_text()
    reports = json.loads(made.local("_stage/report.json").read_text())
    assert len(reports["curve"]) == 5
    assert reports["table"][0]["rows"][0][0] == "1e+22"


def test_a_checkpoint_without_a_loss_is_named(tmp_path: Path) -> None:
    inputs = checkpoints(tmp_path, (1e18,))
    with standalone(STAGE, ScalingConfig(loss="loss"), inputs=inputs, root=tmp_path) as opened:
        with pytest.raises(DataError, match=r"input run-0 \(checkpoint/run-0@1\): its loss is None"):
            run(ScalingConfig(loss="loss"), opened.stage_run)


def test_one_budget_is_not_extrapolated(tmp_path: Path) -> None:
    inputs = dict(list(checkpoints(tmp_path, (1e18,)).items())[:5])
    asked = ScalingConfig(budgets=(1e20,))
    with standalone(STAGE, asked, inputs=inputs, root=tmp_path) as opened:
        with pytest.raises(DataError, match=r"nothing can be said of .* a law of tokens needs two or more"):
            run(asked, opened.stage_run)
    with standalone(STAGE, ScalingConfig(), inputs=inputs, root=tmp_path) as opened:
        made = opened.commit(run(ScalingConfig(), opened.stage_run))
    page = made.read_json("fit.json")
    assert made.metrics["predictions"] == len(page["predictions"]) == 0
    assert any("needs two or more" in line for line in page["warnings"])
