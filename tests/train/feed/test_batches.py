"""Batches from packed documents, against a slow loop over plain lists."""

import itertools
import json
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tatara.errors import DataError
from tatara.train.feed.batches import EMPTY_BIN, PackedTokens, read_packing, read_tokens_json
from train.tokens_cases import SEQUENCE, documents, pack, segments, write_split, write_tokens


@pytest.fixture(scope="module")
def texts():
    return documents(120, seed=11)


@pytest.fixture(scope="module")
def packed(texts, tmp_path_factory):
    directory = tmp_path_factory.mktemp("tokens")
    write_split(directory, "train", texts)
    return PackedTokens(directory, "train", SEQUENCE)


def slow_row(texts, rows, chosen):
    """One row of a batch, token by token."""
    row = []
    number = 0
    for each, document, offset, length in rows:
        if each == chosen:
            for index in range(length - 1):
                text = texts[document]
                row.append((text[offset + index], text[offset + index + 1], 1.0, index, number))
            number += 1
    return row + [(0, 0, 0.0, 0, -1)] * (SEQUENCE - len(row))


def test_batches_equal_the_slow_loop(texts, packed):
    rows = pack(segments([len(text) for text in texts], SEQUENCE), SEQUENCE)
    bins = [3, 0, packed.num_bins - 1, EMPTY_BIN, 7]
    batch = packed.batch(bins)
    fields = (batch.tokens, batch.targets, batch.loss_weights, batch.position_ids, batch.document_ids)
    for index, chosen in enumerate(bins):
        expected = slow_row(texts, rows, chosen)
        assert list(zip(*(field[index].tolist() for field in fields), strict=True)) == expected


def test_every_target_is_predicted_once_per_epoch(texts, packed):
    batch = packed.batch(np.arange(packed.num_bins))
    counted = Counter()
    for row in range(len(batch)):
        weighed = batch.loss_weights[row] > 0
        counted.update(zip(batch.tokens[row][weighed].tolist(), batch.targets[row][weighed].tolist(), strict=True))
    expected = Counter(pair for text in texts for pair in itertools.pairwise(text))
    assert counted == expected
    assert packed.packing.num_targets == sum(len(text) - 1 for text in texts)


def test_split_keeps_rows_in_order(packed):
    batch = packed.batch(range(10))
    parts = batch.split(4)
    assert [len(part) for part in parts] == [4, 4, 2]
    assert (np.concatenate([part.targets for part in parts]) == batch.targets).all()


def write_plan(path, rows):
    names = ("bin", "document", "offset", "length")
    pq.write_table(
        pa.table({name: pa.array([row[i] for row in rows], pa.int64()) for i, name in enumerate(names)}), path
    )
    return path


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "is empty"),
        ([(1, 0, 0, 5), (0, 1, 0, 5)], "not sorted"),
        ([(0, 0, 0, 5), (2, 1, 0, 5)], "skips a bin"),
        ([(0, 0, 0, 40), (0, 1, 0, 40)], "bin of 78 pairs"),
        ([(0, 0, 0, 1)], "segment of 1 tokens"),
    ],
)
def test_a_wrong_plan_is_refused(tmp_path, rows, message):
    with pytest.raises(DataError, match=message):
        read_packing(write_plan(tmp_path / "plan.parquet", rows), SEQUENCE)


def test_a_plan_without_a_column_is_refused(tmp_path):
    pq.write_table(pa.table({"bin": pa.array([0], pa.int64())}), tmp_path / "plan.parquet")
    with pytest.raises(DataError, match=r"cannot read the packing plan .*document"):
        read_packing(tmp_path / "plan.parquet", SEQUENCE)


def test_damaged_files_are_named_in_one_line(tmp_path):
    tokens = write_tokens(tmp_path / "tokens", train=40, validation=4)

    def broken(name, content):
        path = tokens / name
        kept = path.read_bytes()
        path.write_bytes(content(kept))
        with pytest.raises(DataError) as caught:
            PackedTokens(tokens, "train", SEQUENCE)
        path.write_bytes(kept)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "train.bin is cut short" in broken("train.bin", lambda b: b[:-2])
    assert "train.idx is cut short" in broken("train.idx", lambda b: b[:-1])
    assert "no index header" in broken("train.idx", lambda b: b"")
    assert "not a Megatron index" in broken("train.idx", lambda b: b"X" + b[1:])
    assert "cannot read the packing plan" in broken("train-packing.parquet", lambda b: b[: len(b) // 2])
    (tokens / "train.bin").unlink()
    with pytest.raises(DataError, match="cannot read the tokens"):
        PackedTokens(tokens, "train", SEQUENCE)


def test_a_plan_for_other_documents_is_refused(tmp_path):
    write_split(tmp_path, "train", [[1, 2, 3, 4, 0]])
    write_plan(tmp_path / "train-packing.parquet", [(0, 1, 0, 3)])
    with pytest.raises(DataError, match="names documents"):
        PackedTokens(tmp_path, "train", SEQUENCE)
    write_plan(tmp_path / "train-packing.parquet", [(0, 0, 3, 3)])
    with pytest.raises(DataError, match="past the end of a document"):
        PackedTokens(tmp_path, "train", SEQUENCE)


def test_tokens_json_must_say_what_training_needs(tmp_path):
    with pytest.raises(DataError, match="cannot read"):
        read_tokens_json(tmp_path)
    (tmp_path / "tokens.json").write_text(json.dumps({"vocab_size": 5}))
    with pytest.raises(DataError, match="lacks sequence_length"):
        read_tokens_json(tmp_path)


def test_a_token_outside_the_vocabulary_is_named(tmp_path):
    write_split(tmp_path, "train", [[1, 2, 3, 0], [4, 250, 6, 0]])
    fits = PackedTokens(tmp_path, "train", SEQUENCE, vocab_size=251)
    assert fits.batch([0]).tokens.max() == 250
    tight = PackedTokens(tmp_path, "train", SEQUENCE, vocab_size=250)
    with pytest.raises(DataError, match=r"train.bin: document 1 has the token 250, but the vocabulary has 250 tokens"):
        tight.batch([0])


def test_loss_weights_belong_to_targets(tmp_path):
    texts = documents(20, seed=3)
    write_split(tmp_path, "train", texts)
    plain = PackedTokens(tmp_path, "train", SEQUENCE)
    rng = np.random.default_rng(0)
    weights = rng.choice([0.0, 0.5, -1.25, 3.0], sum(map(len, texts))).astype(np.float16)
    weights.tofile(tmp_path / "train-weights.bin")
    weighed = PackedTokens(tmp_path, "train", SEQUENCE)
    every = range(plain.num_bins)
    batch, unweighed = weighed.batch(every), plain.batch(every)
    starts = np.cumsum([0, *map(len, texts)])
    expected = np.zeros_like(batch.loss_weights)
    used = np.zeros(plain.num_bins, int)
    for each, document, offset, length in pack(segments([len(text) for text in texts], SEQUENCE), SEQUENCE):
        first = starts[document] + offset
        expected[each, used[each] : used[each] + length - 1] = weights[first + 1 : first + length]
        used[each] += length - 1
    assert (batch.loss_weights == expected).all()
    assert (batch.tokens == unweighed.tokens).all()
    assert set(np.unique(unweighed.loss_weights)) == {0.0, 1.0}

    weights[-1] = np.nan
    weights.tofile(tmp_path / "train-weights.bin")
    with pytest.raises(DataError, match=r"train-weights.bin: document 19 has a loss weight that is not a finite"):
        PackedTokens(tmp_path, "train", SEQUENCE).batch(every)
    weights[:-1].tofile(tmp_path / "train-weights.bin")
    with pytest.raises(DataError, match=r"train-weights.bin has .* one float16 for each"):
        PackedTokens(tmp_path, "train", SEQUENCE)


def test_many_rows_and_rows_of_padding_equal_one_by_one(packed):
    bins = [EMPTY_BIN, *range(packed.num_bins), EMPTY_BIN, 0]
    together = packed.batch(bins)
    for row, each in enumerate(bins):
        alone = packed.batch([each])
        assert all((vars(together)[name][row] == array[0]).all() for name, array in vars(alone).items())
        if each != EMPTY_BIN:
            assert packed.targets(np.array([each])) == alone.loss_weights.sum()
    assert len(packed.batch([])) == 0
