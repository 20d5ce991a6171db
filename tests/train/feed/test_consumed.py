"""Which documents a step was trained on, against what the feed really gave."""

from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tatara.errors import DataError
from tatara.train.feed.consumed import DocumentNames, consumed, seen
from tatara.train.feed.phases import Phase, Skip
from tatara.train.feed.planning import training_plan
from tatara.train.feed.reader import Feed
from tatara.train.feed.sources import open_sources, source_sizes
from train.feed.feed_cases import write_sources

PHASES = [Phase(), Phase(from_step=4, weights={"math": 0.6, "code": 0.4}), Phase(from_step=8, weights={"web": 1})]


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    return open_sources(write_sources(tmp_path_factory.mktemp("sources")))


@pytest.fixture(scope="module")
def plan(sources):
    return training_plan(
        source_sizes(sources), global_batch_size=8, steps=12, phases=PHASES, skips=[Skip(at_step=2, steps=1)]
    )


@pytest.fixture(scope="module")
def packings(sources):
    return {name: source.packing for name, source in sources.items()}


def test_every_token_of_a_step_is_accounted_for(sources, plan, packings):
    with Feed(sources, plan, prefetch=False) as feed:
        for step in range(plan.steps):
            (batch,) = feed.batch(step, 0, 1, 8)
            given = Counter()
            for row in range(8):
                for number in range(batch.document_ids[row].max() + 1):
                    inside = batch.document_ids[row] == number
                    given[row, tuple(batch.tokens[row][inside]), tuple(batch.targets[row][inside])] += 1
            found = Counter()
            for each in consumed(plan, packings, step):
                run = sources[each.source].tokens.read(each.document, each.offset, each.length)
                found[each.row, tuple(run[:-1]), tuple(run[1:])] += 1
                assert plan.at(step).positions[each.row] == each.position
            assert found == given


def test_the_question_the_other_way_round_has_the_same_answer(plan, packings):
    forward = [each for step in range(plan.steps) for each in consumed(plan, packings, step)]
    assert max(each.epoch for each in forward) >= 1
    backward = [
        each
        for name, packing in packings.items()
        for document in set(packing.documents.tolist())
        for each in seen(plan, packings, name, document)
    ]
    assert len(backward) == len(set(backward))
    assert set(backward) == set(forward)


def test_documents_go_by_their_own_ids_where_they_are_known(tmp_path):
    names = DocumentNames(tmp_path)
    table = pa.table({"number": [0, 1, 2], "id": ["a", "b", "1"], "source": ["x", "x", "y"]})
    numbers = [2, 0]
    assert names.of(numbers) == ["2", "0"]
    assert (names.number("17"), names.number("a")) == (17, None)
    pq.write_table(table, names.path)
    assert names.of(numbers) == ["1", "a"]
    assert (names.number("1"), names.number("7")) == (2, None)
    with pytest.raises(DataError, match="has no document 3"):
        names.of([3])
    names.path.write_bytes(b"nothing")
    with pytest.raises(DataError, match="cannot read"):
        names.of(numbers)
