from pathlib import Path

import numpy as np
import pytest

from tatara.data.indexed import token_type, write_index


@pytest.mark.parametrize("vocab_size", [4096, 65_499, 65_500, 128_256])
def test_megatron_reads_what_is_written(tmp_path: Path, vocab_size: int) -> None:
    from megatron.core.datasets.indexed_dataset import DType, IndexedDataset

    assert token_type(vocab_size) == DType.optimal_dtype(vocab_size)
    random = np.random.default_rng(0)
    documents = [random.integers(0, vocab_size, size).astype(token_type(vocab_size)) for size in (5, 1, 300, 2)]
    (tmp_path / "train.bin").write_bytes(b"".join(document.tobytes() for document in documents))
    write_index(tmp_path / "train.idx", np.array([len(document) for document in documents]), token_type(vocab_size))

    read = IndexedDataset(str(tmp_path / "train"))
    assert len(read) == len(documents)
    assert read.document_indices.tolist() == [0, 1, 2, 3, 4]
    for document, stored in zip(documents, read, strict=True):
        assert np.array_equal(document, stored)
    assert np.array_equal(read.get(2, offset=10, length=20), documents[2][10:30])


def test_index_is_byte_for_byte_what_megatron_writes(tmp_path: Path) -> None:
    import torch
    from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder

    builder = IndexedDatasetBuilder(str(tmp_path / "theirs.bin"), dtype=np.uint16)
    for size in (3, 7, 1):
        builder.add_document(torch.arange(size), [size])
    builder.finalize(str(tmp_path / "theirs.idx"))
    write_index(tmp_path / "ours.idx", np.array([3, 7, 1]), np.uint16)
    assert (tmp_path / "ours.idx").read_bytes() == (tmp_path / "theirs.idx").read_bytes()


def test_an_empty_split_has_an_index(tmp_path: Path) -> None:
    write_index(tmp_path / "none.idx", np.zeros(0, np.int64), np.uint16)
    assert (tmp_path / "none.idx").stat().st_size == 9 + 8 + 1 + 8 + 8 + 8
