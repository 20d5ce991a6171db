"""Which blocks make up the text, and the lists and tables that they are in."""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from tatara.data.extract import tags
from tatara.data.extract.counts import LENGTH
from tatara.data.extract.structure import ELEMENT, FIRST, PARENT, TAG

_LONG_CELL = 200
_T = tags.TAG
_LI, _OL, _UL, _TR, _TD, _TH, _TABLE = (_T[name] for name in ("li", "ol", "ul", "tr", "td", "th", "table"))


@njit(cache=True, nogil=True)
def find_frames(elements: NDArray[np.int32]) -> NDArray[np.int32]:
    """Of each element: the list item, the cell and the row around it, an item's number, how deep in lists it is."""
    total = elements.shape[0]
    frames = np.zeros((total, 5), dtype=np.int32)
    numbers = np.zeros(total, dtype=np.int32)
    for element in range(1, total):
        parent, tag = elements[element, PARENT], elements[element, TAG]
        frames[element, 0], frames[element, 1], frames[element, 2] = (
            frames[parent, 0],
            frames[parent, 1],
            frames[parent, 2],
        )
        frames[element, 4] = frames[parent, 4] + (tag in (_OL, _UL))
        if tag == _LI:
            if numbers[parent] == 0 and elements[parent, FIRST] > 0:
                numbers[parent] = elements[parent, FIRST] - 1
            numbers[parent] += 1
            frames[element, 0], frames[element, 3] = element, numbers[parent]
        elif tag in (_TD, _TH):
            frames[element, 0], frames[element, 1] = 0, element
        elif tag == _TR:
            frames[element, 2] = element
        elif tag == _TABLE:
            frames[element, 0] = frames[element, 1] = frames[element, 2] = frames[element, 4] = 0
    return frames


@njit(cache=True, nogil=True)
def _table_of(elements: NDArray[np.int32], row: NDArray[np.float32]) -> int:
    at = elements[row, PARENT]
    while at > 0 and elements[at, TAG] != _TABLE:
        at = elements[at, PARENT]
    return at


@njit(cache=True, nogil=True)
def find_tables(
    elements: NDArray[np.int32], blocks: NDArray[np.int32], counts: NDArray[np.int64], frames: NDArray[np.int32]
) -> NDArray[np.int32]:
    """The table that each block is a cell of, 0 for none: it has a row of two cells, and no long text in any."""
    total = blocks.shape[0]
    tables = np.zeros(total, dtype=np.int32)
    good = np.zeros(elements.shape[0], dtype=np.int8)
    row = cell = -1
    for block in range(total):
        element = blocks[block, ELEMENT]
        if frames[element, 1] and frames[element, 2]:
            if frames[element, 2] != row:
                row, cell = frames[element, 2], frames[element, 1]
                table = _table_of(elements, row)
            tables[block] = table
            if frames[element, 1] != cell and good[table] == 0:
                good[table] = 1
            if counts[block, LENGTH] > _LONG_CELL:
                good[table] = -1
    for block in range(total):
        if good[tables[block]] != 1:
            tables[block] = 0
    return tables


@njit(cache=True, nogil=True)
def choose(
    elements: NDArray[np.int32],
    blocks: NDArray[np.int32],
    counts: NDArray[np.int64],
    chances: NDArray[np.float32],
    threshold: float,
    whole_tables: bool,
) -> tuple[NDArray[np.bool_], NDArray[np.int32], NDArray[np.int32]]:
    """Which blocks are kept: those above the threshold; tables as a whole; the best there are where that is nothing."""
    total = blocks.shape[0]
    frames = find_frames(elements)
    tables = find_tables(elements, blocks, counts, frames)
    keep = np.zeros(total, dtype=np.bool_)
    best = np.float32(0)
    found = 0
    for block in range(total):
        keep[block] = chances[block] > threshold
        best = max(best, chances[block])
        found += keep[block]
    if not found and best > 0.2 * threshold:
        for block in range(total):
            keep[block] = chances[block] > 0.6 * best
    sums = np.zeros((elements.shape[0], 2), dtype=np.float64)
    for block in range(total):
        sums[tables[block], 0] += counts[block, LENGTH]
        sums[tables[block], 1] += counts[block, LENGTH] * keep[block]
    for block in range(total):
        if tables[block] > 0:
            if not whole_tables:
                keep[block] = False
            else:
                keep[block] = 2 * sums[tables[block], 1] > sums[tables[block], 0]
    return keep, frames, tables
