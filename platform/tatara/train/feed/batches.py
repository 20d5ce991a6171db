"""From packed, tokenised documents to batches: memory-mapped, read without torch, checked before training."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tatara.errors import DataError
from tatara.train.feed.token_file import TokenFile

Int64 = npt.NDArray[np.int64]
Float32 = npt.NDArray[np.float32]

# Rows that are written at once: more do not fit into a core's cache, which takes several times as long.
_ROWS = 16

EMPTY_BIN = -1
"""Stands for a row of padding: it fills a last, short batch and carries no loss."""


@dataclass(frozen=True)
class Batch:
    """Sequences to train on, each array ``[micro_batch, sequence]``."""

    tokens: Int64
    """Input token ids; 0 where a row is padded."""
    targets: Int64
    """The token that follows each input within its document."""
    loss_weights: Float32
    """How much each target counts: 1, or any other number where the data has weights; 0 on padding."""
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

    names = ("bin", "document", "offset", "length")
    try:
        # `read_table` would import pyarrow.dataset, and that pandas: a second at the start of every rank.
        with pq.ParquetFile(path) as file:
            table = file.read(columns=list(names))
        bins, documents, offsets, lengths = (table.column(name).to_numpy().astype(np.int64) for name in names)
    except (OSError, pa.ArrowInvalid, KeyError) as error:
        raise DataError(f"cannot read the packing plan {path}: {' '.join(str(error).split())}") from None
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


def _read_weights(path: Path, tokens: TokenFile) -> npt.NDArray[np.float16] | None:
    if not path.exists():
        return None
    size = path.stat().st_size
    if size != 2 * len(tokens):
        raise DataError(
            f"{path} has {size} bytes, but the {len(tokens)} tokens of {tokens.path} need {2 * len(tokens)}: one "
            "float16 for each; write the weights again"
        )
    return np.memmap(path, dtype=np.float16, mode="r") if size else np.zeros(0, np.float16)


class PackedTokens:
    """One split of a ``tokens`` artifact: rows of packed documents by bin number."""

    def __init__(self, directory: Path, split: str, sequence_length: int, vocab_size: int | None = None) -> None:
        """Open ``<split>.bin``, ``<split>.idx``, ``<split>-packing.parquet`` and, if it is there, the loss weights.

        ``<split>-weights.bin`` holds a float16 for every token of ``<split>.bin``: what the token weighs as a target.

        Args:
            directory: Payload of the artifact.
            split: ``train`` or ``validation``.
            sequence_length: Pairs that fit into one bin.
            vocab_size: Tokens that the model knows; a batch with any other is refused. None checks nothing.

        Raises:
            DataError: A file is missing or damaged, or the plan points outside the documents.
        """
        self.sequence_length, self.vocab_size = sequence_length, vocab_size
        self.packing = read_packing(directory / f"{split}-packing.parquet", sequence_length)
        self.tokens = TokenFile(directory / split)
        plan, lengths = self.packing, self.tokens.lengths
        if plan.documents.min() < 0 or plan.documents.max() >= len(lengths) or plan.offsets.min() < 0:
            raise DataError(f"the packing plan of {split} names documents that {self.tokens.path} does not hold")
        if (plan.offsets + plan.lengths > lengths[plan.documents]).any():
            raise DataError(f"the packing plan of {split} reaches past the end of a document in {self.tokens.path}")
        self.weights_path = directory / f"{split}-weights.bin"
        self._weights = _read_weights(self.weights_path, self.tokens)
        before = np.concatenate([[0], np.cumsum(plan.lengths - 1)])
        self._pairs_before: Int64 = before[plan.starts]

    @property
    def num_bins(self) -> int:
        """Sequences per epoch."""
        return self.packing.num_bins

    def batch(self, bins: Sequence[int] | Int64) -> Batch:
        """The rows of the given bins, in their order; `EMPTY_BIN` gives a row of padding.

        Raises:
            DataError: A token is not in the vocabulary, or a loss weight is not a number.
        """
        batch = empty_batch(len(bins), self.sequence_length)
        self.fill(batch, np.arange(len(bins)), np.asarray(bins, np.int64))
        return batch

    def fill(self, batch: Batch, rows: Int64, bins: Int64) -> None:
        """Write bins into rows of an empty batch; see `batch`.

        Args:
            batch: Of this split's sequence length.
            rows: Where each bin goes, shape ``[n]``.
            bins: Shape ``[n]``.
        """
        used = np.flatnonzero(bins != EMPTY_BIN)
        for at in range(0, len(used), _ROWS):
            some = used[at : at + _ROWS]
            self._fill(batch, rows[some], bins[some])

    def _fill(self, batch: Batch, rows: Int64, bins: Int64) -> None:
        plan = self.packing
        counts = plan.starts[bins + 1] - plan.starts[bins]
        number = _ramps(counts)
        segment = np.repeat(plan.starts[bins], counts) + number
        pairs = plan.lengths[segment] - 1
        position = _ramps(pairs)
        row_pairs = np.add.reduceat(pairs, np.cumsum(counts) - counts)
        place = np.repeat(rows * self.sequence_length, row_pairs) + _ramps(row_pairs)
        source = np.repeat(self.tokens.places(plan.documents[segment], plan.offsets[segment]), pairs) + position
        inputs, targets = self.tokens.gather(source), self.tokens.gather(source + 1)
        if self.vocab_size is not None:
            self._check(segment, inputs, targets)
        weights = np.float32(1.0) if self._weights is None else self._weights[source + 1].astype(np.float32)
        if not np.isfinite(weights).all():
            self._refuse_weight(np.repeat(segment, pairs)[~np.isfinite(weights)][0])
        batch.tokens.reshape(-1)[place] = inputs
        batch.targets.reshape(-1)[place] = targets
        batch.position_ids.reshape(-1)[place] = position
        batch.document_ids.reshape(-1)[place] = np.repeat(number, pairs)
        batch.loss_weights.reshape(-1)[place] = weights

    def targets(self, bins: Int64) -> int:
        """(input, target) pairs in some bins, those of weight 0 included; reads no tokens."""
        return int((self._pairs_before[bins + 1] - self._pairs_before[bins]).sum())

    def _check(self, segment: Int64, inputs: npt.NDArray[Any], targets: npt.NDArray[Any]) -> None:
        assert self.vocab_size is not None
        if max(inputs.max(), targets.max()) < self.vocab_size and min(inputs.min(), targets.min()) >= 0:
            return
        plan = self.packing
        for each in segment.tolist():
            document = int(plan.documents[each])
            run = self.tokens.read(document, int(plan.offsets[each]), int(plan.lengths[each]))
            wrong = run[(run >= self.vocab_size) | (run < 0)]
            if len(wrong):
                raise DataError(
                    f"{self.tokens.path}: document {document} has the token {int(wrong[0])}, but the vocabulary has "
                    f"{self.vocab_size} tokens: the file is damaged, or was made with another tokenizer"
                )

    def _refuse_weight(self, segment: int) -> None:
        raise DataError(
            f"{self.weights_path}: document {int(self.packing.documents[segment])} has a loss weight that is not a "
            "finite number: write the weights again"
        )


def empty_batch(rows: int, sequence_length: int) -> Batch:
    """Rows of padding to fill."""
    tokens, targets, positions = (np.zeros((rows, sequence_length), np.int64) for _ in range(3))
    weights = np.zeros((rows, sequence_length), np.float32)
    return Batch(tokens, targets, weights, positions, np.full((rows, sequence_length), -1, np.int64))


def _ramps(lengths: Int64) -> Int64:
    """0, 1, ... up to each length, one after the other."""
    ends = np.cumsum(lengths)
    return np.arange(ends[-1]) - np.repeat(ends - lengths, lengths)


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
