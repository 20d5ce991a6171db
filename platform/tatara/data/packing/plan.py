"""Packing plans: pure arithmetic on lengths.

A segment ``(document, offset, length)`` is a run of ``length`` tokens that trains ``length - 1`` input and target
pairs; a bin holds segments with at most ``sequence_length`` pairs. A document with more pairs than that is cut into
chunks that overlap by one token, so that every token but a document's first is a target exactly once.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tatara.data.packing.config import PackingConfig
from tatara.data.packing.kernels import best_fit, counting_order, cut_stream

Int64 = NDArray[np.int64]


@dataclass(frozen=True)
class PackingPlan:
    """Which piece of which document goes into which bin, sorted by bin.

    Attributes:
        bin: Bin of each segment, from 0 without gaps: ``[segments]``.
        document: Its document: ``[segments]``.
        offset: Its first token within the document: ``[segments]``.
        length: Its tokens: ``[segments]``.
        sequence_length: Pairs that a bin can hold.
    """

    bin: Int64
    document: Int64
    offset: Int64
    length: Int64
    sequence_length: int

    @property
    def bins(self) -> int:
        """Number of bins."""
        return int(self.bin[-1]) + 1 if len(self.bin) else 0

    @property
    def pairs(self) -> int:
        """Input and target pairs in all bins."""
        return int(self.length.sum()) - len(self.length)

    @property
    def fill(self) -> float:
        """Share of the bins' positions that hold a pair; 1 for an empty plan."""
        return self.pairs / (self.bins * self.sequence_length) if self.bins else 1.0

    def figures(self, lengths: Int64) -> dict[str, Any]:
        """What a person looks at first.

        Args:
            lengths: Tokens of each document: ``[documents]``.

        Returns:
            Sequences, fill, documents that were cut although they would fit into a sequence, documents longer than a
            sequence, the smallest segment of a document that was cut (pairs), and how many sequences hold 1, 2, 3-4,
            5-8, ... documents.
        """
        inside = np.bincount(self.bin) if self.bins else np.zeros(0, np.int64)
        whole = self.length == lengths[self.document]
        cut = np.zeros(len(lengths), bool)
        cut[self.document[~whole]] = True
        long = lengths - 1 > self.sequence_length
        steps = np.ceil(np.log2(inside)).astype(np.int64) if len(inside) else inside
        histogram = {}
        for step, count in enumerate(np.bincount(steps).tolist() if len(steps) else []):
            if count:
                low, high = (1 << step - 1) + 1 if step else 1, 1 << step
                histogram[str(high) if low == high else f"{low}-{high}"] = count
        return {
            "sequences": self.bins,
            "fill": self.fill,
            "cut": int((cut & ~long).sum()),
            "longer_than_a_sequence": int(long.sum()),
            "smallest_piece": int(self.length[~whole].min()) - 1 if (~whole).any() else None,
            "segments_per_sequence": float(inside.mean()) if len(inside) else 0.0,
            "sequences_by_segments": histogram,
        }


def pack(
    lengths: NDArray[np.integer],
    sequence_length: int,
    config: PackingConfig | None = None,
    repeats: NDArray[np.integer] | None = None,
) -> PackingPlan:
    """Pack documents into sequences.

    Args:
        lengths: Tokens of each document: ``[documents]``. Documents with fewer than 2 tokens are left out.
        sequence_length: Pairs that a bin can hold, at least 1.
        config: How; best-fit decreasing if it is not given.
        repeats: How often each document occurs: ``[documents]``; once if it is not given.
    """
    config = config or PackingConfig()
    tokens = np.ascontiguousarray(lengths, np.int64)
    times = None if repeats is None else np.ascontiguousarray(repeats, np.int64)
    if config.strategy == "best_fit":
        document, offset, length = _occurrences(*chunk(tokens, sequence_length, config.min_chunk), times)
        order = counting_order(sequence_length + 1 - length, sequence_length + 1)
        assigned = np.empty(len(order), np.int64)
        assigned[order] = best_fit(length[order] - 1, sequence_length)
        by_bin = counting_order(assigned, int(assigned.max(initial=-1)) + 1)
        return PackingPlan(assigned[by_bin], document[by_bin], offset[by_bin], length[by_bin], sequence_length)
    document, pairs = _stream(tokens, times, config.strategy == "length_bucketed")
    bins, document, offset, length = cut_stream(document, pairs, sequence_length)
    return PackingPlan(bins, document, offset, length + 1, sequence_length)


def chunk(lengths: Int64, sequence_length: int, min_chunk: int = 1) -> tuple[Int64, Int64, Int64]:
    """Cut documents into segments of at most ``sequence_length`` pairs.

    All chunks of a document are full but the last. Where the last would have fewer than ``min_chunk`` pairs (half a
    sequence at most), the one before it gives up what is lacking.

    Returns:
        Document, offset and length of each segment, in the order of documents: three times ``[segments]``.
    """
    least = min(min_chunk, max(sequence_length // 2, 1))
    pairs = np.maximum(lengths - 1, 0)
    counts = -(-pairs // sequence_length)
    document = np.repeat(np.arange(len(lengths)), counts)
    ends = np.cumsum(counts)
    number = np.arange(len(document)) - np.repeat(ends - counts, counts)
    offset = number * sequence_length
    last = ends[counts > 1] - 1
    rest = pairs[document[last]] - offset[last]
    offset[last] -= np.maximum(least - rest, 0)
    end = np.roll(offset, -1)
    final = ends[counts > 0] - 1
    end[final] = pairs[document[final]]
    return document, offset, end - offset + 1


def _occurrences(document: Int64, offset: Int64, length: Int64, times: Int64 | None) -> tuple[Int64, Int64, Int64]:
    """Repeat segments: everything once, then what occurs at least twice, and so on; copies end up far apart."""
    if times is None:
        return document, offset, length
    rows = _rounds(times[document])
    return document[rows], offset[rows], length[rows]


def _rounds(times: Int64) -> Int64:
    rounds = [np.flatnonzero(times > done) for done in range(int(times.max(initial=0)))]
    return np.concatenate(rounds) if rounds else np.zeros(0, np.int64)


def _stream(lengths: Int64, times: Int64 | None, by_length: bool) -> tuple[Int64, Int64]:
    """Documents, and their pairs, in the order in which they are laid down."""
    document = np.arange(len(lengths)) if times is None else _rounds(times)
    pairs = np.maximum(lengths - 1, 0)[document]
    document, pairs = document[pairs > 0], pairs[pairs > 0]
    if by_length:
        # frexp, unlike a logarithm, is exact.
        octave = np.frexp(pairs.astype(np.float64))[1].astype(np.int64)
        order = counting_order(64 - octave, 65)
        document, pairs = document[order], pairs[order]
    return document, pairs


def write_plan(path: Path, plan: PackingPlan, config: PackingConfig) -> None:
    """Write a packing plan as Parquet: one row per segment, sorted by bin."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {"bin": plan.bin, "document": plan.document, "offset": plan.offset, "length": plan.length}
    table = pa.table({name: pa.array(values, pa.int64()) for name, values in columns.items()})
    described = {"sequence_length": str(plan.sequence_length), "strategy": config.strategy}
    pq.write_table(table.replace_schema_metadata(described), path, compression="zstd")
