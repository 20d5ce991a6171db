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

BASE = 0xD6E8FEB86659FD93
"""Odd multiplier of `content_code`."""


@njit("uint64(int64)", cache=True, nogil=True)
def _slot(key: int) -> np.uint64:
    code = np.uint64(key) * np.uint64(0x9E3779B97F4A7C15)
    return code ^ (code >> np.uint64(29))


@njit("int64(int64[:, ::1], int64)", cache=True, nogil=True)
def _find(slots: NDArray[np.int64], key: int) -> np.int64:
    """The row of a key, or the free one where it belongs; a row is key and value, and a key is never negative."""
    mask = np.uint64(len(slots) - 1)
    at = _slot(key) & mask
    while slots[at, 0] >= 0 and slots[at, 0] != key:
        at = (at + np.uint64(1)) & mask
    return np.int64(at)


@njit("int64[:, ::1](int64[:, ::1])", cache=True, nogil=True)
def _grown(slots: NDArray[np.int64]) -> NDArray[np.int64]:
    larger = np.full((2 * len(slots), 2), -1, np.int64)
    for row in range(len(slots)):
        if slots[row, 0] >= 0:
            larger[_find(larger, slots[row, 0])] = slots[row]
    return larger


@njit("int64[:, ::1](int64[:, ::1])", cache=True, nogil=True)
def _longer(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    more = np.zeros((2 * len(rows), rows.shape[1]), np.int64)
    more[: len(rows)] = rows
    return more


@njit("boolean(int64, int64, int64, int64)", cache=True, nogil=True)
def _before(count: int, key: int, other_count: int, other_key: int) -> bool:
    return count > other_count or (count == other_count and key < other_key)


@njit("void(int64[:, ::1], int64, int64, int64, int64)", cache=True, nogil=True)
def _push(heap: NDArray[np.int64], size: int, count: int, key: int, pair: int) -> None:
    """Put (count, key, pair) into a heap of ``size`` entries, the most frequent on top."""
    at = size
    while at > 0:
        parent = (at - 1) // 2
        if not _before(count, key, heap[parent, 0], heap[parent, 1]):
            break
        heap[at] = heap[parent]
        at = parent
    heap[at, 0], heap[at, 1], heap[at, 2] = count, key, pair


@njit("void(int64[:, ::1], int64)", cache=True, nogil=True)
def _pop(heap: NDArray[np.int64], size: int) -> None:
    """Take the top off a heap of ``size`` entries."""
    count, key, pair = heap[size - 1, 0], heap[size - 1, 1], heap[size - 1, 2]
    last = size - 1
    at = 0
    while True:
        child = 2 * at + 1
        if child >= last:
            break
        if child + 1 < last and _before(heap[child + 1, 0], heap[child + 1, 1], heap[child, 0], heap[child, 1]):
            child += 1
        if not _before(heap[child, 0], heap[child, 1], count, key):
            break
        heap[at] = heap[child]
        at = child
    heap[at, 0], heap[at, 1], heap[at, 2] = count, key, pair


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
    at = _find(slots, key)
    if slots[at, 0] >= 0:
        return pairs, slots[at, 1]
    pair = used[0]
    used[0] += 1
    if pair == len(rows):
        rows, slots = _longer(rows), _grown(slots)
        at = _find(slots, key)
    slots[at, 0], slots[at, 1] = key, pair
    rows[pair, 0] = key
    return _Pairs(slots, rows, places, heap, used), pair


@njit(cache=True, nogil=True)
def _queue(pairs: _Pairs, pair: int) -> _Pairs:
    slots, rows, places, heap, used = pairs
    if used[2] == len(heap):
        heap = _longer(heap)
    _push(heap, used[2], rows[pair, 1], rows[pair, 0], pair)
    used[2] += 1
    return _Pairs(slots, rows, places, heap, used)


@njit(cache=True, nogil=True)
def _count(cells: NDArray[np.int32]) -> _Pairs:
    """Count the pairs of all words and note their places."""
    room = 1 << 12
    pairs = _Pairs(
        np.full((4 * room, 2), -1, np.int64), np.zeros((room, 4), np.int64), np.empty(len(cells), np.int32),
        np.zeros((room, 3), np.int64), np.zeros(3, np.int64),
    )  # fmt: skip
    number = np.empty(len(cells), np.int32)
    for i in range(len(cells)):
        number[i] = -1
        if cells[i, 2] >= 0:
            key = np.int64(cells[i, 0]) << 32 | np.int64(cells[cells[i, 2], 0])
            at = _find(pairs.slots, key)
            pair = pairs.slots[at, 1]
            if pair < 0:
                pairs, pair = _pair(pairs, key)
            pairs.rows[pair, 1] += cells[i, 3]
            pairs.rows[pair, 3] += 1
            number[i] = pair
    for pair in range(pairs.used[0]):
        pairs.rows[pair, 2] = pairs.used[1]
        pairs.used[1] += pairs.rows[pair, 3]
        pairs.rows[pair, 3] = 0
        pairs = _queue(pairs, pair)
    for i in range(len(cells)):
        if number[i] >= 0:
            row = pairs.rows[number[i]]
            pairs.places[row[2] + row[3]] = i
            row[3] += 1
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
        gone = pairs.slots[_find(pairs.slots, symbol << 32 | old if side == 0 else old << 32 | symbol), 1]
        pairs.rows[gone, 1] -= tally[symbol, 1]
        pairs, pair = _pair(pairs, symbol << 32 | merged if side == 0 else merged << 32 | symbol)
        pairs.rows[pair, 1] += tally[symbol, 1]
        pairs = _reserve(pairs, pair, tally[symbol, 0])
        pairs = _queue(pairs, pair)
        tally[symbol, 0], tally[symbol, 1] = 0, pair
    for i in range(found):
        if seen[i, 0] >= 0:
            row = pairs.rows[tally[seen[i, 0], 1]]
            pairs.places[row[2] + row[3]] = seen[i, 1]
            row[3] += 1
    for i in range(kinds):
        row = pairs.rows[tally[distinct[i], 1]]
        # Only where different merges make the same bytes does a pair get places twice, and then out of order.
        block = pairs.places[row[2] : row[2] + row[3]]
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


@njit("int64(uint64)", cache=True, nogil=True)
def _content_key(code: np.uint64) -> np.int64:
    # Codes of similar bytes differ in their low bits; a key is not negative.
    return np.int64((np.uint64(code) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(1))


@njit(cache=True, nogil=True)
def _merged_symbol(
    contents: NDArray[np.int64], values: NDArray[np.uint64], left: int, right: int, number: int
) -> tuple[NDArray[np.int64], int]:
    """The symbol of two symbols' bytes: one that is there already, or ``number``, which is entered."""
    code = values[left, 0] * values[right, 1] + values[right, 0]
    key = _content_key(code)
    row = _find(contents, key)
    if contents[row, 0] >= 0:
        return contents, contents[row, 1]
    if 2 * number > len(contents):
        contents = _grown(contents)
        row = _find(contents, key)
    contents[row, 0], contents[row, 1] = key, number
    values[number, 0], values[number, 1] = code, values[left, 1] * values[right, 1]
    return contents, number


@njit(cache=True, nogil=True)
def _known(values: NDArray[np.uint64], symbols: int) -> NDArray[np.int64]:
    """Hash table of the bytes of the symbols that there are."""
    contents = np.full((1 << 12, 2), -1, np.int64)
    while 2 * symbols > len(contents):
        contents = np.full((2 * len(contents), 2), -1, np.int64)
    for symbol in range(symbols):
        key = _content_key(values[symbol, 0])
        row = _find(contents, key)
        if contents[row, 0] < 0:
            contents[row, 0], contents[row, 1] = key, symbol
    return contents


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
    contents = _known(values, number)
    tally = np.zeros((len(values), 2), np.int64)
    cells = _link(symbols, starts, counts)
    pairs = _count(cells)
    seen = np.empty((2, 16, 3), np.int32)
    merges = np.zeros((1 << 10, 3), np.int64)
    learnt = 0
    while number < wanted and pairs.used[2]:
        count, key, pair = pairs.heap[0, 0], pairs.heap[0, 1], pairs.heap[0, 2]
        _pop(pairs.heap, pairs.used[2])
        pairs.used[2] -= 1
        current = pairs.rows[pair, 1]
        if current != count:
            # Merges of other pairs have taken occurrences away since.
            if 0 < current < count:
                pairs = _queue(pairs, pair)
            continue
        left, right = key >> 32, key & 0x7FFFFFFF
        contents, merged = _merged_symbol(contents, values, left, right, number)
        number = max(number, merged + 1)
        if learnt == len(merges):
            merges = _longer(merges)
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


def content_code(content: bytes) -> tuple[int, int]:
    """A hash of bytes that is that of their concatenation's parts combined, and what it takes to combine it."""
    code, power, modulus = 0, 1, 1 << 64
    for byte in content:
        code = (code * BASE + byte + 1) % modulus
        power = power * BASE % modulus
    return code, power
