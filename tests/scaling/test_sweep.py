"""A sweep becomes a recipe that spends its budgets."""

from pathlib import Path

import pytest
import yaml

from tatara import config
from tatara.errors import ConfigError
from tatara.model.sizing import model_of_size
from tatara.recipe.definition import load_recipe
from tatara.scaling.sweep import SweepConfig, sweep_recipe

VALUES = {
    "tokens": "tokens/web@1",
    "vocab_size": 512,
    "sequence_length": 64,
    "budgets": [1e13, 4e13],
    "pretrain": {"global_batch_size": 8, "num_workers": 1, "micro_batch_size": 8},
}


def sweep(**changes: object) -> SweepConfig:
    return config.load(SweepConfig, {**VALUES, **changes})


def test_the_recipe_loads_and_spends_each_budget(tmp_path: Path) -> None:
    page = tmp_path / "sweep.yaml"
    page.write_text(yaml.safe_dump(sweep_recipe(sweep(sizes=["200K", "400K", "800K"]))))
    recipe = load_recipe(page)
    *runs, last = recipe.stages
    assert len(runs) == 6
    assert last.stage.name == "scaling"
    assert set(last.upstream.values()) == {item.key for item in runs}
    for item in runs:
        assert item.external == {"tokens": "tokens/web@1"}
        spec = model_of_size(item.config.model.params, vocab_size=512)
        spent = 6 * spec.parameter_count() * item.config.steps * 8 * 64
        assert min(abs(spent / budget - 1) for budget in (1e13, 4e13)) < 0.02
    assert len({item.name for item in runs}) == 6


def test_sizes_follow_from_tokens_per_parameter() -> None:
    stages = sweep_recipe(sweep(ratios=[5, 20, 80], fewest_steps=1))["stages"]
    for key, stage in stages.items():
        if key != "scaling":
            spec = model_of_size(stage["config"]["model"]["params"], vocab_size=512)
            ratio = stage["config"]["steps"] * 8 * 64 / spec.parameter_count()
            assert min(abs(ratio / wanted - 1) for wanted in (5, 20, 80)) < 0.2


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"pretrain": {}}, "global_batch_size is needed"),
        ({"pretrain": {"global_batch_size": 8, "steps": 3}}, "pretrain.steps is what the sweep decides"),
        ({"pretrain": {"global_batch_size": 8, "model": {"params": "1M"}}}, "pretrain.model.params is what"),
        ({"budgets": [-1.0]}, "must be positive"),
    ],
)
def test_a_contradiction_is_refused(changes: dict[str, object], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        sweep(**changes)


def test_a_budget_with_too_few_runs_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"budget 1e\+13 has 1 sizes of 20 steps or more, a curve needs 3"):
        sweep_recipe(sweep(sizes=["200K", "300M", "600M"]))
