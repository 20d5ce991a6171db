"""Best-fit packing of documents into sequences: pure arithmetic on lengths.

A segment ``(document, offset, length)`` is a run of ``length`` tokens that trains ``length - 1`` input and target
pairs; a bin holds segments with at most ``sequence_length`` pairs. A document with more pairs than that is cut into
chunks that overlap by one token, so that every token but a document's first is a target exactly once.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


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

    bin: NDArray[np.int64]
    document: NDArray[np.int64]
    offset: NDArray[np.int64]
    length: NDArray[np.int64]
    sequence_length: int

    @property
    def bins(self) -> int:
        """Number of bins."""
        return int(self.bin[-1]) + 1 if len(self.bin) else 0

    @property
    def pairs(self) -> int:
        """Input and target pairs in all bins."""
        return int((self.length - 1).sum())

    @property
    def fill(self) -> float:
        """Share of the bins' positions that hold a pair; 1 for an empty plan."""
        return self.pairs / (self.bins * self.sequence_length) if self.bins else 1.0


def pack(lengths: NDArray[np.integer], sequence_length: int) -> PackingPlan:
    """Pack documents by best-fit decreasing (Ding et al. 2024, arXiv:2404.10830, section 3.2).

    Largest segment first, each into the fullest bin that still has room. Bins are found by their room, which is an
    integer up to ``sequence_length``: one bit per room that occurs makes the search a few word operations.

    Args:
        lengths: Tokens of each document: ``[documents]``. Documents with fewer than 2 tokens are left out.
        sequence_length: Pairs that a bin can hold, at least 1.
    """
    document, offset, length = chunk(np.asarray(lengths, np.int64), sequence_length)
    order = np.lexsort((offset, document, -length))
    bins = _assign((length[order] - 1).tolist(), sequence_length)
    assigned = np.empty(len(order), np.int64)
    assigned[order] = bins
    by_bin = np.lexsort((offset, document, assigned))
    return PackingPlan(assigned[by_bin], document[by_bin], offset[by_bin], length[by_bin], sequence_length)


def chunk(
    lengths: NDArray[np.int64], sequence_length: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Cut documents into segments of at most ``sequence_length`` pairs.

    Returns:
        Document, offset and length of each segment, in the order of documents: three times ``[segments]``.
    """
    pairs = np.maximum(lengths - 1, 0)
    counts = -(-pairs // sequence_length)
    document = np.repeat(np.arange(len(lengths)), counts)
    number = np.arange(len(document)) - np.repeat(np.cumsum(counts) - counts, counts)
    offset = number * sequence_length
    length = np.minimum(pairs[document] - offset, sequence_length) + 1
    return document, offset, length


def _assign(sizes: list[int], capacity: int) -> list[int]:
    """Bin of each size, for sizes in descending order."""
    bins: list[int] = []
    with_room: list[list[int]] = [[] for _ in range(capacity + 1)]
    rooms = 0  # bit r is set when some bin has room for exactly r more pairs
    opened = 0
    for size in sizes:
        fitting = rooms >> size
        if fitting:
            room = size + ((fitting & -fitting).bit_length() - 1)
            stack = with_room[room]
            chosen = stack.pop()
            if not stack:
                rooms ^= 1 << room
        else:
            room, chosen = capacity, opened
            opened += 1
        bins.append(chosen)
        left = room - size
        if left:
            with_room[left].append(chosen)
            rooms |= 1 << left
    return bins
