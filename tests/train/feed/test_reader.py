"""The batches of a mixed run, against the sources read one sequence at a time."""

import threading

import numpy as np
import pytest

from tatara.errors import DataError, LayoutError
from tatara.train.feed.phases import Phase, Skip
from tatara.train.feed.planning import training_plan
from tatara.train.feed.reader import Feed
from tatara.train.feed.sources import open_sources, source_sizes
from train.feed.feed_cases import write_source, write_sources
from train.tokens_cases import VOCABULARY

PHASES = [Phase(), Phase(from_step=3, weights={"web": 0.5, "math": 0.5}, global_batch_size=24)]


@pytest.fixture(scope="module")
def directories(tmp_path_factory):
    return write_sources(tmp_path_factory.mktemp("sources"))


@pytest.fixture(scope="module")
def sources(directories):
    return open_sources(directories, "train", VOCABULARY)


@pytest.fixture(scope="module")
def plan(sources):
    return training_plan(source_sizes(sources), global_batch_size=12, steps=7, seed=5, phases=PHASES)


def joined(batches):
    return {name: np.concatenate([vars(each)[name] for each in batches]) for name in vars(batches[0])}


def same(left, right):
    return all((left[name] == right[name]).all() for name in right)


def row_by_row(plan, sources, step):
    return joined(
        [
            sources[plan.names[int(source)]].batch([int(chosen)])
            for source, chosen in zip(*plan.samples(plan.at(step).positions), strict=True)
        ]
    )


@pytest.mark.parametrize(("ranks", "micro"), [(1, 12), (1, 4), (2, 3), (3, 2), (4, 1), (12, 1)])
def test_any_number_of_ranks_and_any_micro_batch_give_the_same_global_batch(plan, sources, ranks, micro):
    for step in range(7):
        found = []
        for rank in range(ranks):
            with Feed(sources, plan, prefetch=False) as feed:
                batches = feed.batch(step, rank, ranks, micro)
            assert {len(each) for each in batches} == {micro}
            found += batches
        assert same(joined(found), row_by_row(plan, sources, step))


def test_reading_ahead_changes_nothing_and_ends_with_the_feed(plan, sources):
    with Feed(sources, plan) as feed:
        for step in [0, 1, 2, 5, 6, 1, 2]:
            assert same(joined(feed.batch(step, 0, 1, 4)), row_by_row(plan, sources, step))
            assert feed.wait_seconds > 0
        names = {thread.name for thread in threading.enumerate()}
        assert any(name.startswith("feed") for name in names)
    assert not any(thread.name.startswith("feed") for thread in threading.enumerate())


def test_a_window_is_left_out_from_the_next_step_on(plan, sources):
    with Feed(sources, plan) as feed:
        feed.batch(0, 0, 1, 12)
        feed.replan(plan.with_skips([Skip(at_step=1, steps=3)]))
        assert same(joined(feed.batch(1, 0, 1, 12)), row_by_row(plan, sources, 4))
        with pytest.raises(ValueError, match="same sources"):
            feed.replan(training_plan(source_sizes({"web": sources["web"]}), global_batch_size=2, steps=1))


def test_targets_are_counted_by_source_over_all_ranks(plan, sources):
    with Feed(sources, plan, prefetch=False) as feed:
        for step in (0, 4):
            which, _ = plan.samples(plan.at(step).positions)
            weights = row_by_row(plan, sources, step)["loss_weights"].sum(1)
            expected = {plan.names[each]: int(weights[which == each].sum()) for each in np.unique(which)}
            assert feed.targets(step) == expected


def test_a_step_that_cannot_be_shared_out_is_refused(plan, sources):
    with Feed(sources, plan) as feed, pytest.raises(LayoutError, match="step 0 has 12 sequences, not a multiple of 5"):
        feed.batch(0, 0, 5, 1)


def test_what_goes_wrong_ahead_is_told_when_its_step_comes(plan, sources):
    broken = training_plan(
        source_sizes(sources), global_batch_size=12, steps=3, phases=[Phase(), Phase(from_step=1, global_batch_size=5)]
    )
    with Feed(sources, broken) as feed:
        feed.batch(0, 0, 1, 4)
        with pytest.raises(LayoutError, match="step 1 has 5 sequences"):
            feed.batch(1, 0, 1, 4)


def test_a_plan_for_other_data_is_refused(plan, sources, tmp_path):
    with pytest.raises(DataError, match="reads from source math, which is not there"):
        Feed({name: sources[name] for name in ("web", "code")}, plan)
    other = open_sources({"math": write_source(tmp_path / "other", 5, 77)})
    with pytest.raises(DataError, match=r"source math has .* but the plan is for"):
        Feed({**sources, **other}, plan)
