"""The guard on synthetic loss curves."""

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tatara.train.feed.phases import Skip, data_step
from tatara.train.watch.guard import Guard, GuardSettings, robust


def guard(**changes):
    return Guard(GuardSettings(**changes), learning_rate=3e-3, warmup_steps=20)


def run(watched, losses, norms=None, start=0):
    """The actions for a curve, as {step: action} without the steps that just go on."""
    norms = norms or [1.0] * len(losses)
    verdicts = [watched.look(start + step, loss, norms[step]) for step, loss in enumerate(losses)]
    return {start + step: verdict.action for step, verdict in enumerate(verdicts) if verdict.action != "go"}


def curve(steps, noise=0.02, floor=2.5):
    """A loss after warm-up, with noise that repeats only after many steps."""
    return [floor + 8 * math.exp(-step / 60) + noise * math.sin(step * 12.9898) for step in range(steps)]


@pytest.mark.parametrize(("policy", "action"), [("warn", "warn"), ("skip", "skip"), ("rollback", "skip")])
def test_a_spike_is_found_where_it_is(policy, action):
    losses = curve(400)
    losses[250] += 1.0
    assert run(guard(spikes=policy), losses) == {250: action}


def test_a_jump_of_the_gradient_alone_is_a_spike():
    norms = [1.0 + 0.3 * math.sin(step * 7.7) for step in range(200)]
    norms[150] = 40.0
    assert run(guard(spikes="skip"), curve(200), norms) == {150: "skip"}


def test_spikes_in_a_row_roll_back_where_that_is_the_policy():
    losses = curve(300)
    losses[200:203] = [7.0, 8.0, 9.0]
    assert run(guard(spikes="rollback", patience=3), losses) == {200: "skip", 201: "skip", 202: "rollback"}


def test_a_lasting_rise_becomes_the_new_usual():
    losses = curve(700)
    losses[500:] = [loss + 1.5 for loss in losses[500:]]
    watched = guard(spikes="skip", patience=3)
    assert run(watched, losses) == {500: "skip", 501: "skip", 502: "warn"}
    assert run(watched, [9.0], start=700) == {700: "skip"}


@pytest.mark.parametrize("bad", [(math.nan, 1.0), (math.inf, 1.0), (2.5, math.nan), (2.5, math.inf)])
def test_what_is_no_number_is_never_applied(bad):
    for policy in ("skip", "rollback", "stop"):
        verdict = guard(nan=policy).look(0, *bad)
        assert not verdict.applies
        assert verdict.action == ("stop" if policy == "stop" else "skip")


def test_lasting_nan_ends_the_run_with_one_line_of_advice():
    watched = guard(patience=2)
    assert watched.look(6, math.nan, 1.0).action == "skip"
    verdict = watched.look(7, math.nan, math.nan)
    assert verdict.action == "stop"
    assert verdict.reason == (
        "the loss at step 8 is nan (gradient norm nan), not a finite number, the 2nd in a row: "
        "lower optimizer.learning_rate=0.003 or raise schedule.warmup_steps=20"
    )


def test_too_many_actions_end_the_run():
    losses = curve(400)
    for step in range(100, 400, 20):
        losses[step] += 3
    found = run(guard(spikes="skip", max_actions=5, action_span=150), losses)
    assert list(found.values())[:6] == ["skip"] * 5 + ["stop"]
    # Spread out more, the same number is fine.
    assert set(run(guard(spikes="skip", max_actions=5, action_span=90), losses).values()) == {"skip"}


@given(
    start=st.floats(3, 12), floor=st.floats(1.5, 3), half=st.floats(20, 2000), drift=st.floats(-0.002, 0.002),
    wave=st.floats(0, 0.3), period=st.integers(300, 3000), warm=st.integers(0, 100),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_it_never_acts_on_a_smooth_curve(start, floor, half, drift, wave, period, warm):
    losses = [
        floor + start * math.exp(-step / half) + drift * step + wave * math.sin(step / period * 2 * math.pi)
        for step in range(300)
    ]
    losses = [losses[0]] * warm + losses
    norms = [10 * math.exp(-step / 50) + 1 for step in range(len(losses))]
    for policy in ("warn", "skip", "rollback"):
        assert run(guard(spikes=policy), losses, norms) == {}


@given(seed=st.integers(0, 2**32), sigma=st.floats(0.001, 0.5))
@settings(max_examples=40, deadline=None)
def test_it_never_acts_on_noise(seed, sigma):
    import numpy as np

    noise = np.random.default_rng(seed)
    losses = (3 + sigma * noise.standard_normal(400)).tolist()
    norms = np.exp(0.3 * noise.standard_normal(400)).tolist()
    assert run(guard(spikes="skip"), losses, norms) == {}


@given(seed=st.integers(0, 2**32), at=st.integers(64, 299), sigma=st.floats(0.001, 0.2), height=st.floats(20, 1e6))
@settings(max_examples=60, deadline=None)
def test_a_single_outlier_is_found(seed, at, sigma, height):
    import numpy as np

    losses = (3 + sigma * np.random.default_rng(seed).standard_normal(300)).tolist()
    losses[at] = 3 + height * max(sigma, 0.01)
    assert run(guard(spikes="skip"), losses) == {at: "skip"}


@given(st.lists(st.sampled_from([2.0, 2.01, 1.99, 2.02, 9.0, math.nan]), max_size=150), st.integers(0, 150))
@settings(max_examples=60, deadline=None)
def test_a_restored_guard_decides_as_one_that_never_stopped(losses, cut):
    options = {"spikes": "rollback", "nan": "rollback", "window": 8, "max_actions": 9, "action_span": 40}
    whole, first, second = guard(**options), guard(**options), guard(**options)
    expected = run(whole, losses)
    found = run(first, losses[:cut])
    second.restore(json.loads(json.dumps(first.state())))
    assert found | run(second, losses[cut:], start=cut) == expected
    assert second.state() == whole.state()


def test_a_rollback_goes_on_with_the_data_after_those_that_failed():
    watched = guard()
    run(watched, curve(40))
    checkpoint = json.loads(json.dumps(watched.state()))
    run(watched, curve(80)[40:], start=40)
    watched.rolled_back(failed_step=79, to_step=40, checkpoint=checkpoint)
    assert watched.skips == (Skip(at_step=40, steps=40),)
    assert [data_step(step, watched.skips) for step in (0, 39, 40, 41)] == [0, 39, 80, 81]
    # Again from the same checkpoint, then from an earlier one: never the same data twice, and none that were not tried.
    watched.rolled_back(failed_step=44, to_step=40, checkpoint=checkpoint)
    assert data_step(40, watched.skips) == 85
    watched.rolled_back(failed_step=41, to_step=20, checkpoint=guard().state())
    assert data_step(19, watched.skips) == 19
    assert data_step(20, watched.skips) == 87


def test_a_rollback_outlives_a_crash_before_the_next_checkpoint():
    watched = guard()
    run(watched, curve(40))
    checkpoint = watched.state()
    run(watched, [math.nan], start=40)
    watched.rolled_back(40, 40, checkpoint)
    journal = json.loads(json.dumps(watched.state()))
    resumed = guard()
    resumed.restore(checkpoint, journal)
    assert resumed.state() == watched.state()
    # A checkpoint from after the rollback knows of it itself.
    run(watched, curve(45)[40:], start=40)
    later = guard()
    later.restore(watched.state(), journal)
    assert later.state() == watched.state()


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30))
def test_the_robust_spread_is_that_of_most_values(values):
    median, sigma = robust(values)
    assert min(values) <= median <= max(values)
    assert sigma > 0
    assert sum(abs(value - median) <= sigma for value in values) >= len(values) / 2
