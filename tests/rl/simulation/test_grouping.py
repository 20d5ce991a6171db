"""Batches from counts by deadline, against the rule of the real buffer."""

import random

from tatara.rl.simulation.grouping import Groups
from tatara.rl.staleness import Candidate, choose


def test_a_batch_is_ready_exactly_when_the_rule_finds_one() -> None:
    draw, found = random.Random(0), 0
    for _ in range(2000):
        size = draw.randint(1, 6)
        drawn = [(draw.randint(3, 7), draw.random() < 0.7) for _ in range(draw.randint(0, 24))]
        groups = Groups(size)
        for number, (due, complete) in enumerate(drawn):
            groups.start(number, due)
            if complete:
                groups.complete(number)
        candidates = [Candidate(number, due, complete) for number, (due, complete) in enumerate(drawn)]
        expected = choose(candidates, 3, groups.sizes)
        assert groups.ready(3) == (expected is not None)
        if expected is not None:
            found += 1
            assert groups.take(3) == expected
            assert len(groups) == len(drawn) - size
    assert 200 < found < 1800


def test_a_dropped_group_is_waited_for_no_longer() -> None:
    groups = Groups(1)
    groups.start(0, 0)
    groups.start(1, 1)
    groups.complete(1)
    assert not groups.ready(0)
    groups.drop(0)
    assert groups.ready(0)
