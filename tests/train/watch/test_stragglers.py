"""Who is named as slow, and that noise is nobody."""

import statistics
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.ranks import run_ranks
from tatara.train.watch.stragglers import RankTime, StepClock, Stragglers, StragglerSettings, median_of_others
from train.watch import watch_cases


def times(own, data=None):
    data = data or [0.0] * len(own)
    return [RankTime(max(own), each, wait) for each, wait in zip(own, data, strict=True)]


def hosts(world):
    return [f"host-{rank // 2}" for rank in range(world)]


@given(
    world=st.integers(2, 12), seed=st.integers(0, 2**32), noise=st.floats(0, 0.05), slower=st.floats(2.0, 10.0),
    data=st.booleans(),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_a_slow_rank_is_named_once_and_alone(world, seed, noise, slower, data):
    random = np.random.default_rng(seed)
    culprit = seed % world
    rule, found = Stragglers(StragglerSettings(), hosts(world)), []
    for _ in range(20):
        own = np.exp(noise * random.standard_normal(world)) * 0.1
        own[culprit] *= slower
        waits = [own[rank] - 0.1 if data and rank == culprit else 0.0 for rank in range(world)]
        found += rule.look(times(own.tolist(), waits))
    (named,) = found
    assert (named.rank, named.host) == (culprit, f"host-{culprit // 2}")
    assert named.ratio == pytest.approx(slower, rel=0.5)
    assert named.cause == ("data" if data else "computing")
    assert rule.named == {culprit}


@given(world=st.integers(2, 64), seed=st.integers(0, 2**32), noise=st.floats(0, 0.6), spikes=st.booleans())
@settings(max_examples=80, deadline=None)
def test_noise_is_nobodys_fault(world, seed, noise, spikes):
    random = np.random.default_rng(seed)
    rule = Stragglers(StragglerSettings(), hosts(world))
    for look in range(40):
        own = np.exp(noise * random.standard_normal(world)) * 0.1
        if spikes and look % 5 == 0:
            # A garbage collection, a checkpoint: now one rank, now another.
            own[random.integers(world)] *= 20
        assert rule.look(times(own.tolist())) == []


@given(st.lists(st.floats(0, 10), min_size=2, max_size=9))
def test_the_median_of_the_others_leaves_oneself_out(values):
    expected = [statistics.median(values[:rank] + values[rank + 1 :]) for rank in range(len(values))]
    assert median_of_others(np.array(values)).tolist() == pytest.approx(expected)


def test_a_rank_that_is_slow_for_a_while_only_is_not_named():
    rule = Stragglers(StragglerSettings(window=8, persistence=0.75), hosts(4))
    looks = [[0.1, 0.1, 0.1, 0.3 if 10 <= look < 14 else 0.1] for look in range(30)]
    assert [rule.look(times(look)) for look in looks] == [[]] * 30


def test_a_straggler_that_recovers_may_be_named_again():
    rule = Stragglers(StragglerSettings(window=4), hosts(4))
    slow, even = [0.1, 0.25, 0.1, 0.1], [0.1] * 4
    named = [bool(rule.look(times(look))) for look in [*[slow] * 6, *[even] * 6, *[slow] * 6]]
    assert sum(named) == 2
    assert statistics.mean(named[:6]) == statistics.mean(named[12:])


def test_a_line_says_who_how_much_and_why():
    rule = Stragglers(StragglerSettings(window=2), ["a", "b", "c"])
    rule.look(times([0.1, 0.1, 0.4], [0.0, 0.0, 0.3]))
    (named,) = rule.look(times([0.1, 0.1, 0.4], [0.0, 0.0, 0.3]))
    assert named.line() == (
        "rank 2 on c is a straggler: 4.00 times the others' time (0.400 s against 0.100 s per step), "
        "most of it waiting for data"
    )


def test_a_clock_tells_own_time_from_waiting():
    clock = StepClock()
    for _ in range(2):
        with clock.step():
            with clock.loading():
                time.sleep(0.03)
            with clock.waiting():
                time.sleep(0.05)
    data = clock.last_data_seconds
    taken = clock.take()
    assert data >= 0.03
    assert taken.step_seconds >= 0.08
    assert taken.data_seconds >= 0.03
    # Waiting is what lies between the two, whatever else the machine did meanwhile.
    assert taken.step_seconds - taken.own_seconds >= 0.05
    assert taken.own_seconds >= taken.data_seconds
    with clock.waiting(), clock.loading():
        # A validation between two steps.
        time.sleep(0.01)
    assert clock.take() == RankTime(0.0, 0.0, 0.0)


def test_ranks_see_each_other():
    ranks = run_ranks(2, watch_cases.gather_times)
    assert ranks[0] == ranks[1] == [RankTime(1.0, 0.5, 0.25), RankTime(2.0, 0.5, 0.25)]
