"""What there is to attend to: the blocks of scores that documents and causality leave, without the full square."""

import itertools
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

import torch

# More micro-batches than a pipeline has in flight.
_REMEMBERED = 64


@dataclass(frozen=True)
class Piece:
    """Queries and the keys that they see: the last query sees all of them, the one before all but the last, etc.

    Each is a range (first, end).
    """

    rows: tuple[int, int]
    """Rows of the micro-batch, all with the same ranges."""
    queries: tuple[int, int]
    """Positions among those that this rank holds."""
    keys: tuple[int, int]
    """Positions in the full row."""

    @property
    def prefix(self) -> int:
        """Number of keys that every query sees, itself not counted."""
        return (self.keys[1] - self.keys[0]) - (self.queries[1] - self.queries[0])


@dataclass(frozen=True)
class Work:
    """The attention of one micro-batch on one context-parallel rank."""

    bounds: tuple[int, ...] | None
    """Cumulative document lengths over the flattened full rows; None means that each row is one document."""
    batch: int
    """Rows."""
    length: int
    """Tokens of a full row."""
    cp: int = 1
    """Context-parallel size: the rank holds zig-zag chunks of queries, and all keys in their natural order."""
    rank: int = 0
    """Context-parallel rank."""

    def __post_init__(self) -> None:
        if self.bounds is not None and self.bounds[-1] != self.batch * self.length:
            raise ValueError(
                f"attention_mask ends at token {self.bounds[-1]}, but {self.batch} full rows of {self.length} have "
                f"{self.batch * self.length}: give document_mask the full rows"
            )

    @property
    def chunks(self) -> tuple[tuple[int, int], ...]:
        """Ranges of full-row positions that this rank holds, in its order."""
        if self.cp == 1:
            return ((0, self.length),)
        size = self.length // (2 * self.cp)
        return tuple((n * size, (n + 1) * size) for n in (self.rank, 2 * self.cp - 1 - self.rank))

    def documents(self) -> Iterator[tuple[tuple[int, int], int, int]]:
        """Rows, first position in the row and end of each document."""
        if self.bounds is None:
            yield (0, self.batch), 0, self.length
            return
        for start, end in itertools.pairwise(self.bounds):
            row = start // self.length
            yield (row, row + 1), start - row * self.length, end - row * self.length

    def pieces(self) -> list[Piece]:
        """All pieces, in the order of this rank's queries: every query is in exactly one."""
        found = []
        for rows, start, end in self.documents():
            held = 0
            for first, last in self.chunks:
                low, high = max(start, first), min(end, last)
                if low < high:
                    found.append(Piece(rows, (held + low - first, held + high - first), (start, high)))
                held += last - first
        return sorted(found, key=lambda piece: (piece.rows, piece.queries))


# Reading a mask waits for the GPU, and every layer, and recomputation once more, gets the same one. The tensor itself
# is kept beside what it said, so that nothing else can come to lie at its address.
_read: OrderedDict[tuple[int, int, int], tuple[torch.Tensor, tuple[int, ...]]] = OrderedDict()


def read_bounds(mask: torch.Tensor | None) -> tuple[int, ...] | None:
    """The numbers in the mask that `document_mask` made, read once per micro-batch.

    Raises:
        ValueError: It is a mask of another kind.
    """
    if mask is None:
        return None
    if mask.dim() != 1 or mask.dtype != torch.int32:
        raise ValueError(f"attention_mask must be what document_mask made, not {mask.dtype} of {list(mask.shape)}")
    if mask.device.type == "cpu":
        return tuple(mask.tolist())
    key = (mask.data_ptr(), mask.numel(), mask._version)
    if key not in _read:
        _read[key] = (mask, tuple(mask.tolist()))
        if len(_read) > _REMEMBERED:
            _read.popitem(last=False)
    return _read[key][1]
