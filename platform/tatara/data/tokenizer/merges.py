"""Learning the merges of byte-pair encoding, compiled (Sennrich et al. 2016, arXiv:1508.07909, algorithm 1).

The pair of neighbouring symbols that occurs most often becomes a symbol of its own, again and again; of pairs that
occur equally often the one with the smaller numbers is taken, as by Hugging Face tokenizers, whose merges these are.
Counts are kept up to date incrementally: words are linked lists of symbols, the places of each pair are known, and a
heap, whose entries may be out of date, yields the most frequent pair.
"""

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from tatara.data.tokenizer.contents import known_contents, merged_symbol
from tatara.data.tokenizer.pair_tables import find, grown, longer, pop, push


class _Pairs(NamedTuple):
    """The pairs of neighbours, and where they are.

    Attributes:
        slots: Hash table of key to number of the pair: ``[slots, 2]``.
        rows: Key, occurrences, first and number of its places: ``[pairs, 4]``.
        places: Cells at which pairs begin, those of one pair side by side and ascending; some are out of date.
        heap: Occurrences, key and number of pairs; some are out of date: ``[entries, 3]``.
        used: How many pairs, places and entries there are: ``[3]``.
    """

    slots: NDArray[np.int64]
    rows: NDArray[np.int64]
    places: NDArray[np.int32]
    heap: NDArray[np.int64]
    used: NDArray[np.int64]


@njit("int32[:, ::1](int32[::1], int64[::1], int64[::1])", cache=True, nogil=True)
def _link(symbols: NDArray[np.int32], starts: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.int32]:
    """Cells of words: symbol, cell before, cell after (-1 for none), and how often the word occurs: ``[cells, 4]``."""
    cells = np.empty((len(symbols), 4), np.int32)
    for word in range(len(counts)):
        for i in range(starts[word], starts[word + 1]):
            cells[i, 0], cells[i, 1], cells[i, 2], cells[i, 3] = symbols[i], i - 1, i + 1, counts[word]
        if starts[word + 1] > starts[word]:
            cells[starts[word], 1] = -1
            cells[starts[word + 1] - 1, 2] = -1
    return cells


@njit(cache=True, nogil=True)
def _pair(pairs: _Pairs, key: int) -> tuple[_Pairs, int]:
    """The number of a pair, which is entered if it is new."""
    slots, rows, places, heap, used = pairs
    at = find(slots, key)
    if slots[at, 0] >= 0:
        return pairs, slots[at, 1]
    pair = used[0]
    used[0] += 1
    if pair == len(rows):
        rows, slots = longer(rows), grown(slots)
        at = find(slots, key)
    slots[at, 0], slots[at, 1] = key, pair
    rows[pair, 0] = key
    return _Pairs(slots, rows, places, heap, used), pair


@njit(cache=True, nogil=True)
def _queue(pairs: _Pairs, pair: int) -> _Pairs:
    slots, rows, places, heap, used = pairs
    if used[2] == len(heap):
        heap = longer(heap)
    push(heap, used[2], rows[pair, 1], rows[pair, 0], pair)
    used[2] += 1
    return _Pairs(slots, rows, places, heap, used)


@njit("int64(int64[:, ::1], int64[:, ::1], int32[:, ::1], int32[::1], int64)", cache=True, nogil=True)
def _count_known(
    slots: NDArray[np.int64], rows: NDArray[np.int64], cells: NDArray[np.int32], number: NDArray[np.int32], first: int
) -> int:
    """Count pairs from a cell on, up to one that is new, whose cell is returned; notes the number of each pair.

    A loop of its own, because counting references to arrays that may change would take most of the time.
    """
    for i in range(first, len(cells)):
        after = cells[i, 2]
        if after >= 0:
            at = find(slots, np.int64(cells[i, 0]) << 32 | np.int64(cells[after, 0]))
            if slots[at, 0] < 0:
                return i
            pair = slots[at, 1]
            rows[pair, 1] += cells[i, 3]
            rows[pair, 3] += 1
            number[i] = pair
    return len(cells)


@njit(cache=True, nogil=True)
def _count(cells: NDArray[np.int32]) -> _Pairs:
    """Count the pairs of all words and note their places."""
    room = 1 << 12
    pairs = _Pairs(
        np.full((4 * room, 2), -1, np.int64), np.zeros((room, 4), np.int64), np.empty(len(cells), np.int32),
        np.zeros((room, 3), np.int64), np.zeros(3, np.int64),
    )  # fmt: skip
    number = np.full(len(cells), -1, np.int32)
    i = _count_known(pairs.slots, pairs.rows, cells, number, 0)
    while i < len(cells):
        pairs, _ = _pair(pairs, np.int64(cells[i, 0]) << 32 | np.int64(cells[cells[i, 2], 0]))
        i = _count_known(pairs.slots, pairs.rows, cells, number, i)
    for pair in range(pairs.used[0]):
        pairs.rows[pair, 2] = pairs.used[1]
        pairs.used[1] += pairs.rows[pair, 3]
        pairs.rows[pair, 3] = 0
        pairs = _queue(pairs, pair)
    rows, places = pairs.rows, pairs.places
    for i in range(len(cells)):
        pair = number[i]
        if pair >= 0:
            places[rows[pair, 2] + rows[pair, 3]] = i
            rows[pair, 3] += 1
    return pairs


@njit("int64(int32[:, ::1], int32[::1], int64, int64, int64, int32[:, :, ::1])", cache=True, nogil=True)
def _replace(
    cells: NDArray[np.int32], places: NDArray[np.int32], left: int, right: int, merged: int, seen: NDArray[np.int32]
) -> int:
    """Merge a pair at its places.

    Args:
        cells: See `_link`; the second cell of a merged pair is taken out.
        places: Where it may be, ascending: ``[places]``.
        left: First symbol.
        right: Second symbol.
        merged: What takes their place.
        seen: Takes, for each merge, symbol, cell where the pair with it begins, and weight, of the neighbour before
            (``seen[0]``) and after (``seen[1]``); the symbol is -1 where there is none: ``[2, places, 3]``.

    Returns:
        How often it was merged.
    """
    found = 0
    for i in range(len(places)):
        first = places[i]
        second = cells[first, 2]
        if cells[first, 0] != left or second < 0 or cells[second, 0] != right:
            continue
        before, after = cells[first, 1], cells[second, 2]
        weight = cells[first, 3]
        seen[0, found, 0] = cells[before, 0] if before >= 0 else -1
        seen[0, found, 1], seen[0, found, 2] = before, weight
        seen[1, found, 0] = cells[after, 0] if after >= 0 else -1
        seen[1, found, 1], seen[1, found, 2] = first, weight
        cells[first, 0], cells[first, 2] = merged, after
        cells[second, 0] = -1
        if after >= 0:
            cells[after, 1] = first
        found += 1
    return found


@njit(cache=True, nogil=True)
def _enter(
    pairs: _Pairs, seen: NDArray[np.int32], found: int, side: int, old: int, merged: int, tally: NDArray[np.int64]
) -> _Pairs:
    """Count the pairs that went and came on one side of the merged ones.

    Args:
        pairs: The pairs.
        seen: One side of what `_replace` saw: ``[places, 3]``.
        found: How much it saw.
        side: 0 for the neighbours before, 1 for those after.
        old: Their neighbour until now.
        merged: Their neighbour from now on.
        tally: Zeros, for each symbol two; zeros again afterwards: ``[symbols, 2]``.
    """
    distinct = np.empty(found, np.int64)
    kinds = 0
    for i in range(found):
        symbol = seen[i, 0]
        if symbol >= 0:
            if tally[symbol, 0] == 0:
                distinct[kinds] = symbol
                kinds += 1
            tally[symbol, 0] += 1
            tally[symbol, 1] += seen[i, 2]
    for i in range(kinds):
        symbol = distinct[i]
        gone = pairs.slots[find(pairs.slots, symbol << 32 | old if side == 0 else old << 32 | symbol), 1]
        pairs.rows[gone, 1] -= tally[symbol, 1]
        pairs, pair = _pair(pairs, symbol << 32 | merged if side == 0 else merged << 32 | symbol)
        pairs.rows[pair, 1] += tally[symbol, 1]
        pairs = _reserve(pairs, pair, tally[symbol, 0])
        pairs = _queue(pairs, pair)
        tally[symbol, 0], tally[symbol, 1] = 0, pair
    rows, places = pairs.rows, pairs.places
    for i in range(found):
        if seen[i, 0] >= 0:
            pair = tally[seen[i, 0], 1]
            places[rows[pair, 2] + rows[pair, 3]] = seen[i, 1]
            rows[pair, 3] += 1
    for i in range(kinds):
        pair = tally[distinct[i], 1]
        # Only where different merges make the same bytes does a pair get places twice, and then out of order.
        block = places[rows[pair, 2] : rows[pair, 2] + rows[pair, 3]]
        for k in range(1, len(block)):
            if block[k] < block[k - 1]:
                block.sort()
                break
        tally[distinct[i], 1] = 0
    return pairs


@njit(cache=True, nogil=True)
def _reserve(pairs: _Pairs, pair: int, more: int) -> _Pairs:
    """Make room for more places of a pair, after those that it has."""
    slots, rows, places, heap, used = pairs
    first, number = rows[pair, 2], rows[pair, 3]
    if used[1] + number + more > len(places):
        longer = np.empty(2 * (used[1] + number + more), np.int32)
        longer[: used[1]] = places[: used[1]]
        places = longer
    places[used[1] : used[1] + number] = places[first : first + number]
    rows[pair, 2] = used[1]
    used[1] += number + more
    return _Pairs(slots, rows, places, heap, used)


@njit(cache=True, nogil=True)
def learn(
    symbols: NDArray[np.int32],
    starts: NDArray[np.int64],
    counts: NDArray[np.int64],
    codes: NDArray[np.uint64],
    wanted: int,
) -> NDArray[np.int64]:
    """Learn merges until there are ``wanted`` symbols or no pair is left.

    Args:
        symbols: Symbols of all words, one after the other: ``[symbols]``.
        starts: Where each word begins, and where the last ends: ``[words + 1]``.
        counts: How often each word occurs: ``[words]``.
        codes: `content_code` of the bytes of each symbol that there is: ``[known, 2]``.
        wanted: Symbols in the end.

    Returns:
        Left, right and merged symbol of each merge, in order: ``[merges, 3]``. A merge whose bytes are those of a
        symbol that is there already makes no new one.
    """
    number = len(codes)
    values = np.zeros((max(wanted, number) + 1, 2), np.uint64)
    values[:number] = codes
    contents = known_contents(values, number)
    tally = np.zeros((len(values), 2), np.int64)
    cells = _link(symbols, starts, counts)
    pairs = _count(cells)
    seen = np.empty((2, 16, 3), np.int32)
    merges = np.zeros((1 << 10, 3), np.int64)
    learnt = 0
    while number < wanted and pairs.used[2]:
        count, key, pair = pairs.heap[0, 0], pairs.heap[0, 1], pairs.heap[0, 2]
        pop(pairs.heap, pairs.used[2])
        pairs.used[2] -= 1
        current = pairs.rows[pair, 1]
        if current != count:
            # Merges of other pairs have taken occurrences away since.
            if 0 < current < count:
                pairs = _queue(pairs, pair)
            continue
        left, right = key >> 32, key & 0x7FFFFFFF
        contents, merged = merged_symbol(contents, values, left, right, number)
        number = max(number, merged + 1)
        if learnt == len(merges):
            merges = longer(merges)
        merges[learnt, 0], merges[learnt, 1], merges[learnt, 2] = left, right, merged
        learnt += 1
        first, places = pairs.rows[pair, 2], pairs.rows[pair, 3]
        if places > seen.shape[1]:
            seen = np.empty((2, 2 * places, 3), np.int32)
        found = _replace(cells, pairs.places[first : first + places], left, right, merged, seen)
        pairs.rows[pair, 3] = 0
        pairs = _enter(pairs, seen[1], found, 1, right, merged, tally)
        pairs = _enter(pairs, seen[0], found, 0, left, merged, tally)
        pairs.rows[pair, 1] = 0
    return merges[:learnt]
