"""Flat ranges of a tensor as boxes: how a shard that ignores the tensor's shape is stored under the tensor's name."""

import math
from collections.abc import Sequence

Box = tuple[tuple[int, ...], tuple[int, ...]]
"""Offsets and sizes, one of each per dimension."""


def boxes_of(shape: Sequence[int], start: int, end: int) -> list[Box]:
    """The boxes that make up elements ``start`` to ``end`` of a tensor in row-major order.

    Each box is contiguous in that order, and they follow each other without a gap, so that box after box is a view of
    the flat range. There are at most ``2 * len(shape) - 1`` of them.

    Args:
        shape: Of the tensor.
        start: First element.
        end: One past the last element; at most the number of elements.
    """
    if start >= end:
        return []
    if not shape:
        return [((), ())]
    row = math.prod(shape[1:])
    first, last = -(-start // row), end // row
    if first > last:
        # Within one row.
        return _within(shape, start // row, start % row, end - (start // row) * row)
    found = _within(shape, first - 1, start % row, row) if start % row else []
    if first < last:
        found.append(((first, *(0 for _ in shape[1:])), (last - first, *shape[1:])))
    return found + (_within(shape, last, 0, end % row) if end % row else [])


def _within(shape: Sequence[int], row: int, start: int, end: int) -> list[Box]:
    return [((row, *offsets), (1, *sizes)) for offsets, sizes in boxes_of(shape[1:], start, end)]
