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
