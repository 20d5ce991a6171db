"""The order of prompts against what it promises, and files of prompts."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rl.ledger_world import make_prompts, make_stage
from tatara.errors import ConfigError, DataError
from tatara.rl.curriculum import Difficulty
from tatara.rl.prompts import fingerprint, plan_orders, read_prompts, write_prompts

PROMPTS = [*make_prompts(7), *make_prompts(5, "tales")]


def test_every_epoch_of_a_dataset_visits_each_prompt_once_in_an_order_of_its_own():
    (order,) = plan_orders(PROMPTS, [make_stage()], 3)
    epochs = [order.prompts_at(range(start, start + 7)) for start in range(0, 70, 7)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 5


@given(st.lists(st.integers(0, 5000), min_size=1, max_size=20))
def test_a_prompt_depends_on_its_place_alone(places):
    stage = make_stage(prompts={"sums": 3.0, "tales": 1.0})
    together = plan_orders(PROMPTS, [stage], 0)[0].prompts_at(places)
    assert together == [plan_orders(PROMPTS, [stage], 0)[0].prompt_at(place) for place in places]


def test_datasets_take_turns_by_weight():
    (order,) = plan_orders(PROMPTS, [make_stage(prompts={"sums": 3.0, "tales": 1.0})], 0)
    sources = Counter(PROMPTS[number].source for number in order.prompts_at(range(1024)))
    assert sources == {"sums": 768, "tales": 256}
    some = Counter(PROMPTS[number].source for number in order.prompts_at(range(64)))
    assert 8 <= some["tales"] <= 24, "turns are mixed within a block"


def test_seed_and_stage_change_the_order():
    stages = [make_stage(name="one", until_batch=3), make_stage(name="two")]
    orders = [order.prompts_at(range(7)) for seed in (0, 1) for order in plan_orders(PROMPTS, stages, seed)]
    assert len({tuple(order) for order in orders}) == 4


def test_prompts_outside_the_limits_are_left_out_and_counted():
    prompts = [
        *make_prompts(2, pass_rate=0.0),
        *make_prompts(3, pass_rate=0.5),
        *make_prompts(1, pass_rate=1.0),
    ]
    stage = make_stage(difficulty=Difficulty(minimum=0.1, maximum=0.9))
    (order,) = plan_orders(prompts, [stage], 0)
    assert set(order.prompts_at(range(50))) == {2, 3, 4}
    assert order.report() == {"sums": {"prompts": 3, "too hard": 2, "too easy": 1}}
    long = make_stage(max_prompt_tokens=2, drop_long_prompts=True)
    with pytest.raises(DataError, match=r"stage 'only' has no prompt of 'sums' left \(6 too long\)"):
        plan_orders(prompts, [long], 0)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"prompts": {"sum": 1.0}}, ConfigError, "takes prompts of 'sum', but there are none; did you mean 'sums'?"),
        ({"max_prompt_tokens": 2}, DataError, "prompt 'sums-0' of 'sums' has 3 tokens, stage 'only' allows 2"),
        ({"difficulty": Difficulty()}, DataError, "prompt 'sums-0' of 'sums' has no 'pass_rate' from 0 to 1"),
    ],
    ids=["dataset", "length", "pass rate"],
)
def test_prompts_that_a_stage_cannot_take_are_named(changes, error, message):
    with pytest.raises(error) as caught:
        plan_orders(PROMPTS, [make_stage(**changes)], 0)
    assert message in str(caught.value)


def test_files_keep_prompts(tmp_path):
    path = tmp_path / "prompts.jsonl"
    assert write_prompts(path, PROMPTS) == 12
    assert read_prompts(path) == PROMPTS
    assert fingerprint(read_prompts(path)) == fingerprint(PROMPTS)
    assert fingerprint(PROMPTS[1:]) != fingerprint(PROMPTS) != fingerprint([*PROMPTS[1:], PROMPTS[0]])


def test_broken_files_and_prompts_are_named(tmp_path):
    path = tmp_path / "prompts.jsonl"
    with pytest.raises(DataError, match=r"cannot read the prepared prompts .*No such file"):
        read_prompts(path)
    path.write_text('{"id": "a"}\n')
    with pytest.raises(DataError, match=r"prompts.jsonl:1 is not a prepared prompt"):
        read_prompts(path)
    with pytest.raises(DataError, match="two prompts of 'sums' have the id 'sums-0'"):
        write_prompts(path, [PROMPTS[0], PROMPTS[0]])
    with pytest.raises(DataError, match="prompt 'sums-0' of 'sums' cannot be written as JSON"):
        write_prompts(path, make_prompts(1, tests={1}))
