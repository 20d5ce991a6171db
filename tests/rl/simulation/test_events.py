"""The simulated loop against closed forms, against a simulation in small steps of time, and against its own rules."""

import dataclasses
import itertools
import statistics
from typing import Any

import pytest

from rl.simulation.stepping import batch_times
from tatara.errors import ConfigError
from tatara.rl.simulation.events import simulate
from tatara.rl.simulation.loop import EngineCurve, LearnerCurve, Lengths, Loop

BATCH = {"groups_per_batch": 4, "group_size": 2}


def loop(**changed: Any) -> Loop:
    """Equal lengths: 8 responses of 100 tokens in 100 s, training 30 s, 5 s to publish, 3 s to load."""
    settings: dict[str, Any] = {
        "engines": 1, "concurrency": 8, "engine": EngineCurve(0.2, 0.1), "lengths": Lengths(100), "staleness": 0,
        "learner": LearnerCurve(10, 0.025), "publish": 5.0, "load": 3.0, **BATCH,
    }  # fmt: skip
    return Loop(**{**settings, **changed})


def test_a_synchronous_loop_is_the_sum_of_its_parts() -> None:
    found = simulate(loop())
    cycle = 100 + 30 + 5 + 3
    assert found.seconds == pytest.approx(12 * cycle)
    assert found.rollout == pytest.approx({"generate": 100 / cycle, "sync": 3 / cycle, "wait": 35 / cycle})
    assert found.learner == pytest.approx({"train": 30 / cycle, "sync": 5 / cycle, "wait": 103 / cycle})
    assert found.devices["generate"] == pytest.approx(50 / cycle)
    assert found.utilisation == pytest.approx(65 / cycle)
    assert found.tokens_per_second == pytest.approx(800 / cycle)
    assert dict(found.staleness) == {0: 12 * 8}


def test_devices_weigh_the_shares() -> None:
    found = simulate(loop(rollout_devices=3.0, learner_devices=1.0))
    assert found.utilisation == pytest.approx((3 * 100 + 30) / (4 * 138))


@pytest.mark.parametrize(("train", "cycle"), [(30.0, 100.0), (250.0, 250.0)])
def test_an_overlapped_loop_is_as_fast_as_its_slower_half(train: float, cycle: float) -> None:
    found = simulate(loop(staleness=1, learner=LearnerCurve(train, 0.0), publish=0.0, load=0.0))
    assert found.seconds / found.batches == pytest.approx(cycle)
    assert found.rollout["generate"] == pytest.approx(100 / cycle)
    assert found.learner["train"] == pytest.approx(train / cycle)


def test_draining_loads_between_batches_and_training_is_hidden() -> None:
    found = simulate(loop(staleness=1, in_flight="drain"))
    assert found.seconds / found.batches == pytest.approx(103)
    assert found.max_staleness == 1


def test_colocated_devices_never_wait_when_lengths_are_equal() -> None:
    found = simulate(loop(colocated=True))
    assert found.seconds / found.batches == pytest.approx(138)
    assert found.devices == pytest.approx({"generate": 100 / 138, "train": 30 / 138, "sync": 8 / 138, "wait": 0.0})
    assert sum(found.rollout.values()) == pytest.approx(1)


def test_colocated_responses_stand_still_while_the_learner_works() -> None:
    # Two batches in flight share the engine; each stops once for the training of the batch before it.
    both = simulate(loop(colocated=True, staleness=1, lengths=Lengths(100, 0.5)), 20)
    apart = simulate(loop(staleness=1, lengths=Lengths(100, 0.5)), 20)
    assert both.batches_per_second < apart.batches_per_second
    assert both.devices["generate"] + both.devices["train"] + both.devices["sync"] <= 1 + 1e-9


def test_one_engine_one_response() -> None:
    found = simulate(
        loop(concurrency=1, groups_per_batch=1, group_size=1, learner=LearnerCurve(7, 0), publish=0, load=0)
    )
    assert found.seconds / found.batches == pytest.approx(100 * 0.3 + 7)
    assert found.occupancy == pytest.approx(30 / 37)


def test_few_scorers_delay_a_batch_and_many_do_not() -> None:
    one = simulate(loop(reward=2.0, reward_workers=1))
    assert one.seconds / one.batches == pytest.approx(138 + 8 * 2)
    many = simulate(loop(reward=2.0))
    assert many.seconds / many.batches == pytest.approx(138 + 2)


def test_prompts_count_for_the_learner() -> None:
    found = simulate(loop(prompt_tokens=50.0))
    assert found.seconds / found.batches == pytest.approx(138 + 8 * 50 * 0.025)


def test_messages_take_their_time() -> None:
    found = simulate(loop(handout=1.0, fetch=2.0, lease=4.0))
    assert found.seconds / found.batches == pytest.approx(138 + 7)
    assert found.learner["wait"] == pytest.approx(1 - 35 / 145)
    # On their way, weights hold nobody up who has something to do.
    hidden = simulate(loop(staleness=1, publish=0.0, load=0.0, fetch=2.0, lease=4.0))
    assert hidden.seconds / hidden.batches == pytest.approx(100)


@pytest.mark.parametrize(("cores", "cycle"), [(1.0, 130.0), (1.5, 110.0), (2.0, 100.0), (None, 100.0)])
def test_learner_and_engine_on_the_same_cores_slow_each_other_down(cores: float | None, cycle: float) -> None:
    # Alone 100 s and 30 s. With 1.5 cores training takes 40 s, in which the engine does 30 s of its work.
    found = simulate(loop(staleness=1, cores=cores, publish=0.0, load=0.0))
    assert found.seconds / found.batches == pytest.approx(cycle)
    assert found.rollout["generate"] == pytest.approx(1)
    assert found.learner["train"] * cycle == pytest.approx({1.0: 60, 1.5: 40}.get(cores or 2.0, 30))


def test_engines_on_the_same_cores_slow_each_other_down() -> None:
    # Two engines of four responses each on one core: 100 steps of 0.6 s at half the speed.
    found = simulate(loop(engines=2, concurrency=4, cores=1.0))
    assert found.seconds / found.batches == pytest.approx(120 + 30 + 5 + 3)


@pytest.mark.parametrize("staleness", [0, 1])
def test_it_agrees_with_small_steps_of_time(staleness: int) -> None:
    made = loop(engines=2, concurrency=6, staleness=staleness, lengths=Lengths(300, 0.6), groups_per_batch=5,
                learner=LearnerCurve(20, 0.02), publish=0.5, load=0.4)  # fmt: skip
    times = batch_times(made, 8, seed=3, tick=0.2)
    assert times[-1] - times[2] == pytest.approx(simulate(made, 5, warm_up=3, seed=3).seconds, rel=0.005)


@pytest.mark.parametrize("in_flight", ["continue", "drain"])
@pytest.mark.parametrize("colocated", [False, True])
@pytest.mark.parametrize("staleness", [0, 1, 3])
def test_nothing_is_lost_and_nothing_is_too_old(staleness: int, colocated: bool, in_flight: Any) -> None:
    made = loop(engines=3, concurrency=5, staleness=staleness, lengths=Lengths(60, 1.0, 300), groups_per_batch=7,
                group_size=3, dropped=0.2, reward=1.0, reward_workers=2, in_flight=in_flight,
                colocated=colocated)  # fmt: skip
    found = simulate(made, 25, seed=staleness)
    assert found.started == found.trained_rollouts + found.dropped_rollouts + found.held_rollouts
    assert found.trained_rollouts == (25 + staleness + 2) * 21
    assert found.dropped_rollouts > 0
    assert found.held_rollouts <= (staleness + 1) * 21
    assert sum(found.staleness.values()) == 25 * 21
    assert 0 <= min(found.staleness) <= found.max_staleness <= staleness
    for shares in (found.rollout, found.learner, found.devices):
        assert sum(shares.values()) == pytest.approx(1)
        assert min(shares.values()) > -1e-9
    assert found.occupancy <= 1 + 1e-9


def test_more_staleness_is_not_slower() -> None:
    made = loop(engines=4, concurrency=16, lengths=Lengths(100, 1.0, 800), groups_per_batch=16, group_size=4)
    speeds = [
        statistics.mean(
            simulate(dataclasses.replace(made, staleness=bound), 12, seed=seed).batches_per_second for seed in range(4)
        )
        for bound in range(5)
    ]
    assert all(later >= earlier * 0.99 for earlier, later in itertools.pairwise(speeds))
    assert speeds[1] > 1.2 * speeds[0]


def test_the_same_seed_is_the_same_run() -> None:
    made = loop(staleness=1, lengths=Lengths(100, 1.0))
    assert simulate(made, seed=5) == simulate(made, seed=5)
    assert simulate(made, seed=5).seconds != simulate(made, seed=6).seconds


def test_counts_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match="at least one batch"):
        simulate(loop(), 0)
    for changed in ({"engines": 0}, {"staleness": -1}, {"dropped": 1.0}, {"reward_workers": 0}):
        with pytest.raises(ConfigError, match=next(iter(changed))):
            loop(**changed)
