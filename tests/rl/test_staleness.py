"""Admission and choice against exhaustive and independent statements of what they must do."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tatara.rl.staleness import BatchSizes, Candidate, admits, choose, deadline, needed_version

sizes_of_runs = st.builds(
    lambda lengths, groups, open_end: BatchSizes(
        tuple(itertools.accumulate([0, *lengths[: len(groups) - 1]])),
        tuple(groups),
        None if open_end else sum(lengths[: len(groups)]),
    ),
    st.lists(st.integers(1, 4), min_size=3, max_size=3),
    st.lists(st.integers(1, 3), min_size=1, max_size=3),
    st.booleans(),
)


@given(sizes_of_runs)
def test_sizes_agree_with_a_list_of_batches(sizes):
    number = 16 if sizes.batches is None else sizes.batches
    listed = []
    for batch in range(number):
        assert sizes.before(batch) == len(listed)
        listed += [batch] * sizes.groups[max(i for i, start in enumerate(sizes.starts) if start <= batch)]
    assert [sizes.batch_of(group) for group in range(len(listed))] == listed
    for stage, start in enumerate(sizes.starts):
        assert sizes.first_group(stage) == listed.index(start)
        if sizes.end(stage) is not None:
            assert sizes.room(stage) == sum(start <= batch < sizes.end(stage) for batch in listed)


@given(sizes_of_runs, st.integers(0, 4), st.integers(0, 40))
def test_needed_version_is_the_first_that_admits(sizes, staleness, group):
    admitted = [version for version in range(60) if admits(group, version, staleness, sizes)]
    assert needed_version(group, staleness, sizes) == (admitted[0] if admitted else None)
    assert admitted == list(range(admitted[0], 60)) if admitted else True


def test_staleness_zero_admits_the_groups_of_the_batch_that_the_version_trains():
    sizes = BatchSizes((0, 2), (3, 5), 4)
    for version in range(4):
        groups = [group for group in range(20) if admits(group, version, 0, sizes)]
        assert groups == list(range(sizes.before(version + 1)))


def test_a_batch_waits_for_groups_that_later_batches_have_no_room_for():
    # Version 0 started six groups (staleness 2), of which the last four are slow; version 1 started two that are not.
    sizes = BatchSizes((0,), (2,))
    slow = [Candidate(position, 2, False) for position in range(2, 6)]
    young = [Candidate(position, 3, True) for position in (6, 7)]
    # Batch 2 alone cannot take all four, so batch 1 must take two of them, though none is due yet.
    assert choose([*slow, *young], 1, sizes) is None
    half = [*(Candidate(each.position, 2, True) for each in slow[:2]), *slow[2:], *young]
    assert choose(half, 1, sizes) == (2, 3)


def test_deadline_ends_with_the_stage():
    assert deadline(3, 2) == 5
    assert deadline(3, 2, last_batch=4) == 4


@given(
    st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=1, max_size=7),
    st.integers(1, 3),
)
def test_choice_is_made_exactly_when_one_is_possible(groups, size):
    """Against all choices there are: some set of complete groups leaves the others time to be trained on."""
    sizes = BatchSizes((0,), (size,))
    candidates = [Candidate(position, due, complete) for position, (due, complete) in enumerate(groups)]

    def in_time(left):
        return all(sum(each.deadline <= due for each in left) <= size * due for due in range(4))

    complete = [each for each in candidates if each.complete]
    possible = [
        taken
        for taken in itertools.combinations(complete, size)
        if in_time([each for each in candidates if each not in taken])
    ]
    chosen = choose(candidates, 0, sizes)
    assert (chosen is not None) == bool(possible)
    if chosen is not None:
        assert chosen in [tuple(each.position for each in taken) for taken in possible]


@pytest.mark.parametrize(
    ("starts", "groups", "batches"),
    [((1,), (2,), None), ((0, 0), (1, 1), None), ((0,), (0,), None), ((0, 4), (1, 1), 4), ((0,), (1, 2), None)],
    ids=["late start", "no length", "empty batch", "never reached", "unequal"],
)
def test_sizes_that_make_no_sense_are_refused(starts, groups, batches):
    with pytest.raises(ValueError):
        BatchSizes(starts, groups, batches)
