"""Advantages against loops in float64, and what must hold of them for any rewards."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tatara.errors import DataError
from tatara.rl.advantages import advantages, equal_groups, overlong_penalties

REWARDS = st.tuples(st.integers(1, 5), st.integers(2, 8)).flatmap(
    lambda shape: arrays(np.float64, shape, elements=st.floats(-100, 100).map(lambda value: round(value, 3)))
)


def loop(rewards, baseline, scale):
    found = []
    for group in rewards:
        mean, row = sum(group) / len(group), []
        deviation = (sum((reward - mean) ** 2 for reward in group) / (len(group) - 1)) ** 0.5
        for index, reward in enumerate(group):
            others = [each for number, each in enumerate(group) if number != index]
            own = reward - (mean if baseline == "group_mean" else sum(others) / len(others))
            row.append(own / (deviation + 1e-4) if scale else own)
        found.append(row)
    return found


@pytest.mark.parametrize("scale", [True, False])
@pytest.mark.parametrize("baseline", ["group_mean", "leave_one_out"])
@given(REWARDS)
def test_they_are_those_of_a_loop(baseline, scale, rewards):
    found = advantages(rewards, baseline=baseline, scale_by_deviation=scale)
    np.testing.assert_allclose(found, loop(rewards.tolist(), baseline, scale), rtol=1e-9, atol=1e-8)


@given(REWARDS, st.floats(-50, 50))
def test_they_sum_to_zero_and_do_not_see_what_all_get(rewards, shift):
    found = advantages(rewards, scale_by_deviation=False)
    np.testing.assert_allclose(found.sum(1), 0, atol=1e-8)
    np.testing.assert_allclose(advantages(rewards + shift, scale_by_deviation=False), found, atol=1e-8)


@given(REWARDS, st.randoms())
def test_the_order_within_a_group_and_the_other_groups_do_not_matter(rewards, random):
    order = random.sample(range(rewards.shape[1]), rewards.shape[1])
    found = advantages(rewards)
    np.testing.assert_allclose(advantages(rewards[:, order]), found[:, order], atol=1e-9)
    np.testing.assert_array_equal(advantages(rewards[:1]), found[:1])


@given(st.floats(-1e6, 1e6), st.integers(2, 9))
def test_equal_rewards_are_exactly_no_signal(reward, n):
    rewards = np.full((1, n), reward)
    assert equal_groups(rewards).tolist() == [True]
    assert not advantages(rewards).any()
    rewards[0, 0] += 1.0
    assert equal_groups(rewards).tolist() == [False]


def test_overlong_penalties_are_equation_13():
    lengths = [0, 60, 79, 80, 85, 99, 100]
    expected = [0.0 if n <= 80 else (80 - n) / 20 for n in lengths]
    np.testing.assert_allclose(overlong_penalties(lengths, 100, 20, 1.0), expected)
    np.testing.assert_allclose(overlong_penalties(lengths, 100, 20, 0.5), np.array(expected) / 2)


@pytest.mark.parametrize("window", [0, 101])
def test_a_window_that_does_not_fit_is_refused(window):
    with pytest.raises(DataError, match=f"overlong_window {window} must be from 1 to the longest response, 100"):
        overlong_penalties([1], 100, window, 1.0)


@pytest.mark.parametrize(
    ("rewards", "message"),
    [
        ([[1.0], [2.0]], "a group needs at least 2 responses to compare, but has 1"),
        ([[1.0, 2.0], [3.0, np.nan]], "the reward of response 1 of group 1 is nan, not a number"),
        ([[1.0, np.inf]], "the reward of response 1 of group 0 is inf"),
        ([1.0, 2.0], r"rewards must be \[groups, n\]"),
    ],
    ids=["alone", "nan", "infinite", "flat"],
)
def test_what_cannot_be_compared_is_refused(rewards, message):
    with pytest.raises(DataError, match=message):
        advantages(rewards)
