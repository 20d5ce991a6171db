"""What the ledger refuses, keeps and shows: deliveries, scores, packed records, its status."""

import copy
import json

import msgpack
import pytest

from rl.ledger_run import PROMPTS, World
from rl.ledger_world import make_rollout, make_score, make_settings, make_stage
from tatara.errors import TrainingError
from tatara.rl.ledger import checks, plan
from tatara.rl.ledger.packing import pack_rollout, pack_score, spans, unpack_rollout, unpack_score
from tatara.rl.ledger.status import status
from tatara.rl.record import RolloutKey, Sampling, Score

KEY = RolloutKey("train", 0, 0, 0)


@pytest.mark.parametrize(
    ("key", "changes", "message"),
    [
        (RolloutKey("train", 0, 99, 0), {}, "rollout 0 of position 99, which was never handed out"),
        (RolloutKey("evaluate", 3, 0, 0), {}, "held-out prompt 0 of version 3, which was never handed out"),
        (RolloutKey("train", 0, 0, 2), {}, "its group has 2 rollouts"),
        (KEY, {"prompt_ids": (1, 2)}, "other prompt tokens than those of prompt 'sums-"),
        (KEY, {"logprobs": (-1.0, -1.0)}, "1 tokens, but 2 in logprobs"),
        (KEY, {"loss_mask": ()}, "1 tokens, but 0 in loss_mask"),
        (KEY, {"logprobs": (float("nan"),)}, "a log-probability that is not finite"),
        (KEY, {"last_version": -1}, "last version -1 before the first"),
        (KEY, {"first_version": -1}, "begun with version -1, but leased it with version 0"),
    ],
    ids=["position", "round", "index", "prompt", "logprobs", "mask", "nan", "versions", "too old"],
)
def test_a_wrong_delivery_is_refused_in_one_line(key, changes, message):
    world = World(make_settings([make_stage()], PROMPTS))
    world.lease("engine", 100)
    prompt = PROMPTS[world.state.groups["train", 0, 0].prompt]
    before = copy.deepcopy(world.state)
    both = [make_rollout(RolloutKey("train", 0, 0, 1), prompt, 0), make_rollout(key, prompt, 0, **changes)]
    with pytest.raises(TrainingError, match="worker 'engine' brings") as caught:
        checks.deliver(world.state, "engine", both, PROMPTS, (), 0.0)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert world.state == before


def test_strangers_are_refused():
    world = World(make_settings([make_stage()], PROMPTS))
    with pytest.raises(TrainingError, match="'stranger' delivers, but never leased"):
        checks.deliver(world.state, "stranger", [], PROMPTS, (), 0.0)
    with pytest.raises(TrainingError, match="'stranger' has scores, but never leased"):
        checks.score(world.state, "stranger", [], 0.0)
    with pytest.raises(TrainingError, match="version 4 of the policy, but the newest is 0"):
        plan.lease(world.state, world.rules, "engine", 4, 1, 0.0)
    world.lease("engine", 100)
    with pytest.raises(TrainingError, match="scores rollout 0 of position 0, which is not generated"):
        checks.score(world.state, "engine", [make_score(KEY, 1.0)], 0.0)


def test_packing_changes_nothing():
    prompt = PROMPTS[0]
    odd = make_rollout(
        KEY,
        prompt,
        3,
        "w",
        response_ids=(5, 2**31 - 1),
        loss_mask=(1, 0),
        logprobs=(-0.1, 0.0),
        sampling=Sampling(4, 0.7, 0.9, 50, (1, 2)),
        last_version=4,
        finish="environment",
    )
    for rollout in (
        odd,
        make_rollout(KEY, prompt, 0),
        make_rollout(KEY, prompt, 0, response_ids=(), loss_mask=(), logprobs=()),
    ):
        record = msgpack.unpackb(msgpack.packb(pack_rollout(rollout)))
        assert unpack_rollout(record, prompt.token_ids) == rollout
    score = make_score(KEY, 0.1, {"judge": "timed out"})
    assert unpack_score(json.loads(json.dumps(pack_score(score)))) == score


def test_a_score_that_is_no_number_is_an_error():
    packed = pack_score(Score(KEY, {"math": float("nan"), "format": 1.0}, float("nan"), "text"))
    assert packed["errors"] == {"math": "nan is not a finite number"}
    assert packed["parts"] == {"format": 1.0}


def test_spans():
    assert spans([3, 0, 1, 2, 6]) == "0-3, 6"


def test_status_says_what_the_next_batch_waits_for():
    world = World(make_settings([make_stage(group_size=4)], PROMPTS, staleness=1))
    world.lease("engine", 100)
    world.deliver("engine", [0])
    found = status(world.state, world.rules, 0, 10.0)
    assert found["groups"] == {"leased": 4}
    assert found["waiting_for"] == "batch 0 needs 2 groups, 0 of 4 are ready"
    assert found["workers"]["engine"]["generating"] == 15
    assert found["leases"][0] | {"age_s": 0} == {
        "purpose": "train",
        "round": 0,
        "position": 0,
        "workers": ["engine"],
        "rollouts": "1-3",
        "version": 0,
        "age_s": 0,
    }
    world.commit({"event": "stop"})
    json.dumps(status(world.state, world.rules, 0, 10.0))
