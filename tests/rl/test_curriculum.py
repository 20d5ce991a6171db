"""Stages: what makes a sequence of them, and what does not."""

import pytest

from rl.ledger_world import make_stage
from tatara import config
from tatara.errors import ConfigError
from tatara.rl.curriculum import CurriculumStage, HeldOut, batch_sizes
from tatara.rl.staleness import BatchSizes


def test_stages_become_sizes():
    stages = [make_stage(until_batch=3, groups_per_batch=4), make_stage(groups_per_batch=6)]
    assert batch_sizes(stages, None) == BatchSizes((0, 3), (4, 6), None)
    assert batch_sizes(stages, 9) == BatchSizes((0, 3), (4, 6), 9)
    assert batch_sizes([make_stage(until_batch=5)], None).batches == 5


@pytest.mark.parametrize(
    ("untils", "batches", "message"),
    [
        ((), None, "the curriculum has no stage"),
        ((None, None), None, "stage 'stage 0' never ends, so stage 'stage 1' never begins"),
        ((4, 4, None), None, "stage 'stage 1' ends at batch 4, but begins at 4"),
        ((4, 6), 9, "the last stage 'stage 1' ends at batch 6, but the run has 9"),
        ((4, None), 4, "the run has 4 batches, but stage 'stage 1' begins at batch 4"),
    ],
    ids=["none", "endless", "empty", "too short", "never reached"],
)
def test_stages_that_do_not_follow_each_other_are_named(untils, batches, message):
    stages = [make_stage(name=f"stage {place}", until_batch=until) for place, until in enumerate(untils)]
    with pytest.raises(ConfigError) as caught:
        batch_sizes(stages, batches)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompts": {"sums": 0.0}}, "the weight of prompts 'sums' must be above 0"),
        ({"prompts": {"sums": float("nan")}}, "the weight of prompts 'sums' must be above 0"),
        ({"group_size": 1, "dynamic_sampling": {"enabled": True}}, "needs a group_size of at least 2"),
        ({"difficulty": {"minimum": 0.8, "maximum": 0.2}}, "no pass rate lies between minimum 0.8 and maximum 0.2"),
        ({"groups_per_bach": 3}, "did you mean 'groups_per_batch'?"),
    ],
    ids=["weight", "nan", "group of one", "difficulty", "typo"],
)
def test_wrong_values_are_named(changes, message):
    given = {"name": "a", "prompts": {"sums": 1}, "groups_per_batch": 2, "group_size": 2, "max_response_tokens": 8}
    with pytest.raises(ConfigError) as caught:
        config.load(CurriculumStage, given | changes)
    assert message in str(caught.value)


def test_pass_at_more_than_there_are_is_refused():
    with pytest.raises(ConfigError, match="pass@k needs 1 <= k <= samples"):
        config.load(HeldOut, {"samples": 2, "k": [1, 4], "max_response_tokens": 8})
