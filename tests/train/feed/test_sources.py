"""Sources by name: one tokenizer for all, and held-out sequences of each."""

import hashlib
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tatara.errors import DataError
from tatara.train.feed.sources import open_sources, same_tokenizer
from tatara.train.feed.validation import rounds, validation_loss, validation_sets
from train.feed.feed_cases import write_source, write_sources


def test_sources_must_share_a_tokenizer(tmp_path):
    directories = write_sources(tmp_path)
    assert same_tokenizer(directories) == hashlib.sha256(b"{}").hexdigest()
    directories["other"] = write_source(tmp_path / "other", 3, 4, tokenizer='{"a": 1}')
    with pytest.raises(DataError, match="sources web and other have different tokenizers") as caught:
        same_tokenizer(directories)
    assert str(tmp_path / "other") in str(caught.value)
    with pytest.raises(DataError, match="no source"):
        same_tokenizer({})


def test_the_tokenizer_must_be_the_one_the_tokens_were_made_with(tmp_path):
    directory = write_source(tmp_path / "web", 3, 4)
    described = json.loads((directory / "tokens.json").read_text())
    (directory / "tokens.json").write_text(json.dumps(described | {"tokenizer_sha256": "ab" * 32}))
    with pytest.raises(DataError, match="not the tokenizer that its tokens were made with"):
        same_tokenizer({"web": directory})
    (directory / "tokenizer" / "tokenizer.json").unlink()
    with pytest.raises(DataError, match="source web: cannot read its tokenizer"):
        same_tokenizer({"web": directory})


@given(
    sequences=st.integers(0, 60),
    available=st.integers(1, 60),
    micro=st.integers(1, 5),
    ranks=st.integers(1, 6),
)
def test_every_rank_validates_equally_often_and_no_sequence_twice(sequences, available, micro, ranks):
    found = rounds(sequences, available, micro, ranks)
    assert len(found) % ranks == 0
    used = found[found >= 0]
    assert len(used) == len(set(used.tolist())) == min(sequences, available)
    assert (used < available).all()
    assert (rounds(sequences, available, 1, 1).ravel() == used).all()


def test_validation_covers_each_source_whatever_the_number_of_ranks(tmp_path):
    sources = open_sources(write_sources(tmp_path), "validation")
    for ranks in (1, 3):
        for each in validation_sets(sources, 4, 2, ranks):
            batches = [batch for rank in range(ranks) for batch in each.batches(rank, ranks)]
            wanted = sources[each.source].batch(rounds(4, sources[each.source].num_bins, 1, 1).ravel())
            tokens = np.concatenate([batch.tokens for batch in batches])
            rows = {row.tobytes() for row in tokens if row.any()}
            assert rows == {row.tobytes() for row in wanted.tokens}
    assert [each.source for each in validation_sets(sources, 4, 2, 1)] == ["code", "math", "web"]


def test_losses_are_told_by_source_and_over_all_targets():
    found = validation_loss({"web": (30.0, 10), "code": (2.0, 2), "none": (0.0, 0)})
    assert found.by_source == {"web": 3.0, "code": 1.0, "none": 0.0}
    assert (found.overall, found.targets) == (pytest.approx(32 / 12), 12)
