"""Which sequences a step trains on."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tatara.train.feed.positions import bins_at, index_of, rank_slice, step_positions


@given(bins=st.integers(1, 700), seed=st.integers(-5, 5), epoch=st.integers(0, 3))
def test_each_epoch_visits_every_bin_once(bins, seed, epoch):
    visited = bins_at(range(epoch * bins, (epoch + 1) * bins), bins, seed)
    assert sorted(visited.tolist()) == list(range(bins))


@given(step=st.integers(0, 10**9), batch=st.sampled_from([8, 16, 24, 48]), ranks=st.sampled_from([1, 2, 4, 8]))
def test_the_ranks_share_a_step_whatever_their_number(step, batch, ranks):
    positions = step_positions(step, batch)
    together = [position for rank in range(ranks) for position in rank_slice(positions, rank, ranks)]
    assert together == list(positions)


@given(steps=st.integers(1, 20), batch=st.integers(1, 30))
def test_steps_follow_each_other_without_gap_or_overlap(steps, batch):
    covered = [position for step in range(steps) for position in step_positions(step, batch)]
    assert covered == list(range(steps * batch))


@given(bins=st.integers(1, 10**12), position=st.integers(0, 10**15))
def test_any_position_alone_gives_what_it_gives_in_a_crowd(bins, position):
    crowd = bins_at(range(position, position + 5), bins, seed=3)
    assert crowd[2] == bins_at(range(position + 2, position + 3), bins, seed=3)[0]
    assert crowd.min() >= 0
    assert crowd.max() < bins


@given(bins=st.integers(1, 10**12), epoch=st.integers(0, 10**6), place=st.integers(0, 10**12), seed=st.integers(-2, 2))
def test_the_place_of_a_bin_can_be_found_again(bins, epoch, place, seed):
    position = epoch * bins + place % bins
    found = bins_at(range(position, position + 1), bins, seed)
    assert index_of(found, epoch, bins, seed) == place % bins


def test_epochs_and_seeds_have_orders_of_their_own():
    size = 1000
    first = bins_at(range(size), size, 0)
    assert (first == bins_at(range(size), size, 0)).all()
    for other in (bins_at(range(size, 2 * size), size, 0), bins_at(range(size), size, 1), np.arange(size)):
        # A random permutation leaves one element in place on average.
        assert (first == other).sum() < 10


def test_the_order_is_well_mixed():
    size = 4096
    order = bins_at(range(size), size, 7).astype(float)
    neighbours = np.corrcoef(order[:-1], order[1:])[0, 1]
    trend = np.corrcoef(order, np.arange(size))[0, 1]
    # The standard error of both is 1/64.
    assert abs(neighbours) < 0.06
    assert abs(trend) < 0.06


def test_no_bins_is_a_mistake():
    with pytest.raises(ValueError, match="at least 1"):
        bins_at(range(3), 0, 0)
