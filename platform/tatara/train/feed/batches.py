"""From packed, tokenised documents to batches: memory-mapped, read without torch, checked before training."""

import json
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tatara.errors import DataError

Int64 = npt.NDArray[np.int64]
Float32 = npt.NDArray[np.float32]

EMPTY_BIN = -1
"""Stands for a row of padding: it fills a last, short batch and carries no loss."""

_INDEX_MAGIC = b"MMIDIDX\x00\x00"
_INDEX_HEADER = struct.Struct("<9sQBQQ")
# The codes of megatron/core/datasets/indexed_dataset.py (DType) that can hold token ids.
_INDEX_DTYPES: dict[int, type[Any]] = {1: np.uint8, 3: np.int16, 4: np.int32, 5: np.int64, 8: np.uint16}


@dataclass(frozen=True)
class Batch:
    """Sequences to train on, each array ``[micro_batch, sequence]``."""

    tokens: Int64
    """Input token ids; 0 where a row is padded."""
    targets: Int64
    """The token that follows each input within its document."""
    loss_weights: Float32
    """1 where the target counts, 0 on padding."""
    position_ids: Int64
    """Position within the segment; restarts at 0 with every segment."""
    document_ids: Int64
    """Number of the segment within its row; tokens attend only within one number. -1 on padding."""

    def __len__(self) -> int:
        return len(self.tokens)

    def split(self, micro_batch_size: int) -> list["Batch"]:
        """Cut into micro-batches of ``micro_batch_size`` rows."""
        return [
            Batch(**{name: array[start : start + micro_batch_size] for name, array in vars(self).items()})
            for start in range(0, len(self), micro_batch_size)
        ]


class TokenFile:
    """One Megatron ``IndexedDataset`` (``.bin`` and ``.idx``), memory-mapped; a sequence in it is a document."""

    def __init__(self, prefix: Path) -> None:
        """Open ``<prefix>.bin`` and ``<prefix>.idx``.

        Raises:
            DataError: A file is missing, is no index, or the two do not belong together.
        """
        self.path = Path(f"{prefix}.bin")
        index = Path(f"{prefix}.idx")
        try:
            raw = np.memmap(index, mode="r") if index.stat().st_size else np.zeros(0, np.uint8)
            size = self.path.stat().st_size
        except OSError as error:
            raise DataError(f"cannot read the tokens at {prefix}: {error}") from None
        if len(raw) < _INDEX_HEADER.size:
            raise DataError(f"{index} is cut short: {len(raw)} bytes hold no index header")
        magic, version, code, count, documents = _INDEX_HEADER.unpack_from(raw[: _INDEX_HEADER.size].tobytes())
        if magic != _INDEX_MAGIC or version != 1 or code not in _INDEX_DTYPES:
            raise DataError(f"{index} is not a Megatron index of token ids (version {version}, type code {code})")
        expected = _INDEX_HEADER.size + 12 * count + 8 * documents
        if len(raw) < expected:
            raise DataError(f"{index} is cut short: {len(raw)} bytes, {count} documents need {expected}")
        self.dtype = np.dtype(_INDEX_DTYPES[code])
        start = _INDEX_HEADER.size
        self.lengths: npt.NDArray[np.int32] = np.frombuffer(raw, np.int32, count, start)
        self._pointers: Int64 = np.frombuffer(raw, np.int64, count, start + 4 * count)
        needed = int((self._pointers + self.lengths.astype(np.int64) * self.dtype.itemsize).max(initial=0))
        if size < needed:
            raise DataError(f"{self.path} is cut short: {size} bytes, its index needs {needed}")
        self._tokens = np.memmap(self.path, dtype=self.dtype, mode="r") if size else np.zeros(0, self.dtype)

    def read(self, document: int, offset: int, length: int) -> npt.NDArray[Any]:
        """Tokens ``[offset, offset + length)`` of a document, shape ``[length]``, without a copy."""
        start = int(self._pointers[document]) // self.dtype.itemsize + offset
        return self._tokens[start : start + length]


@dataclass(frozen=True)
class Packing:
    """The packing plan: segments in the order of their bins."""

    documents: Int64
    """Document of each segment, shape ``[segments]``."""
    offsets: Int64
    """First token of each segment within its document."""
    lengths: Int64
    """Tokens of each segment; it yields one (input, target) pair fewer."""
    starts: Int64
    """Segments of bin b are ``[starts[b], starts[b + 1])``; shape ``[bins + 1]``."""

    @property
    def num_bins(self) -> int:
        """Bins, that is sequences per epoch."""
        return len(self.starts) - 1

    @property
    def num_targets(self) -> int:
        """(input, target) pairs per epoch."""
        return int((self.lengths - 1).sum())


def read_packing(path: Path, sequence_length: int) -> Packing:
    """Read and check a packing plan.

    Args:
        path: Parquet file with the columns bin, document, offset and length, sorted by bin.
        sequence_length: Pairs that fit into one bin.

    Raises:
        DataError: The file is unreadable, or a bin is missing, out of order or too full.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path, columns=["bin", "document", "offset", "length"])
    except (OSError, pa.ArrowInvalid, pa.ArrowKeyError) as error:
        raise DataError(f"cannot read the packing plan {path}: {' '.join(str(error).split())}") from None
    bins, documents, offsets, lengths = (
        table.column(name).to_numpy().astype(np.int64) for name in ("bin", "document", "offset", "length")
    )
    if not len(bins):
        raise DataError(f"the packing plan {path} is empty: the corpus is too small for this split")
    if (np.diff(bins) < 0).any():
        raise DataError(f"the packing plan {path} is not sorted by bin")
    num_bins = int(bins[-1]) + 1
    starts = np.searchsorted(bins, np.arange(num_bins + 1))
    if bins[0] < 0 or (np.diff(starts) == 0).any():
        raise DataError(f"the packing plan {path} skips a bin: bins must be numbered 0, 1, 2, ...")
    pairs = np.add.reduceat(lengths - 1, starts[:-1])
    if lengths.min() < 2 or pairs.max() > sequence_length:
        raise DataError(
            f"the packing plan {path} has a bin of {int(pairs.max())} pairs or a segment of {int(lengths.min())} "
            f"tokens: bins hold at most sequence_length={sequence_length} pairs, segments at least 2 tokens"
        )
    return Packing(documents, offsets, lengths, starts.astype(np.int64))


class PackedTokens:
    """One split of a ``tokens`` artifact: rows of packed documents by bin number."""

    def __init__(self, directory: Path, split: str, sequence_length: int) -> None:
        """Open ``<split>.bin``, ``<split>.idx`` and ``<split>-packing.parquet``.

        Raises:
            DataError: A file is missing or damaged, or the plan points outside the documents.
        """
        self.sequence_length = sequence_length
        self.packing = read_packing(directory / f"{split}-packing.parquet", sequence_length)
        self.tokens = TokenFile(directory / split)
        plan, lengths = self.packing, self.tokens.lengths
        if plan.documents.min() < 0 or plan.documents.max() >= len(lengths) or plan.offsets.min() < 0:
            raise DataError(f"the packing plan of {split} names documents that {self.tokens.path} does not hold")
        if (plan.offsets + plan.lengths > lengths[plan.documents]).any():
            raise DataError(f"the packing plan of {split} reaches past the end of a document in {self.tokens.path}")

    @property
    def num_bins(self) -> int:
        """Sequences per epoch."""
        return self.packing.num_bins

    def batch(self, bins: Sequence[int] | Int64) -> Batch:
        """The rows of the given bins, in their order; `EMPTY_BIN` gives a row of padding."""
        shape = (len(bins), self.sequence_length)
        tokens, targets, positions = (np.zeros(shape, np.int64) for _ in range(3))
        weights = np.zeros(shape, np.float32)
        documents = np.full(shape, -1, np.int64)
        for row, each in enumerate(bins):
            at = 0
            for number, (document, offset, length) in enumerate(self._segments(int(each))):
                run = self.tokens.read(document, offset, length)
                end = at + length - 1
                tokens[row, at:end] = run[:-1]
                targets[row, at:end] = run[1:]
                positions[row, at:end] = np.arange(length - 1)
                documents[row, at:end] = number
                weights[row, at:end] = 1.0
                at = end
        return Batch(tokens, targets, weights, positions, documents)

    def _segments(self, each: int) -> Iterator[tuple[int, int, int]]:
        if each == EMPTY_BIN:
            return
        plan = self.packing
        for index in range(int(plan.starts[each]), int(plan.starts[each + 1])):
            yield int(plan.documents[index]), int(plan.offsets[index]), int(plan.lengths[index])


def read_tokens_json(directory: Path) -> dict[str, Any]:
    """The description of a ``tokens`` artifact: vocab_size, eos_id, sequence_length and counts.

    Raises:
        DataError: The file is missing, is not JSON, or lacks a key that training needs.
    """
    path = directory / "tokens.json"
    try:
        described: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {path}: {error}") from None
    missing = [key for key in ("vocab_size", "sequence_length") if not isinstance(described.get(key), int)]
    if missing:
        raise DataError(f"{path} lacks {', '.join(missing)}: write the tokens again with `tatara tokenize`")
    return described
