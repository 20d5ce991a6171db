"""The entrypoints of stages: one for each, all of the form of those that `test_jobs` submits."""

from pathlib import Path

import pytest

from tatara.recipe.stages import STAGES

JOBS = Path(__file__).resolve().parents[2] / "jobs"


def test_every_stage_has_an_entrypoint() -> None:
    assert {path.stem for path in JOBS.glob("*.py")} == set(STAGES)


@pytest.mark.parametrize("stage", STAGES)
def test_an_entrypoint_differs_from_the_others_only_in_its_stage(stage: str) -> None:
    submitted = (JOBS / "pretrain.py").read_text()
    assert submitted.count("pretrain") == 3
    assert (JOBS / f"{stage}.py").read_text() == submitted.replace("pretrain", stage)
