"""Splitting text into words and counting them, compiled: the patterns of `splits` as a state machine over UTF-8."""

import functools
import unicodedata
from typing import NamedTuple

import numpy as np
from numba import njit, types
from numpy.typing import NDArray

from tatara.data.tokenizer.splits import Split

MAX_WORD = 256
"""Longest word that is learnt from, bytes; longer ones are cut. Without it the work would grow with the square of a
run of letters without a space."""

_OTHER, _LETTER, _NUMBER, _SPACE, _NEWLINE = range(5)
_TEXT = types.Array(types.uint8, 1, "C", readonly=True)
_WHITE = (0x09, 0x0B, 0x0C, 0x20, 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x2028, 0x2029, 0x202F, 0x205F, 0x3000)


class WordCounts(NamedTuple):
    """Distinct words and how often each occurs.

    Attributes:
        text: UTF-8 of the words one after the other: ``[bytes]``.
        ends: Where each ends: ``[words]``.
        counts: How often it occurs: ``[words]``.
    """

    text: NDArray[np.uint8]
    ends: NDArray[np.int64]
    counts: NDArray[np.int64]


class _Table(NamedTuple):
    """Words under way.

    A slot holds hash, occurrences and number of a word side by side: looking up a known word touches one cache line.
    Two words of one 64-bit hash would be taken for one.
    """

    slots: NDArray[np.uint64]
    text: NDArray[np.uint8]
    ends: NDArray[np.int64]


@functools.cache
def _classes(marks: bool) -> NDArray[np.uint8]:
    """Class of each code point: ``[0x110000]``."""
    table = np.zeros(0x110000, np.uint8)
    for start, end in ((0, 0x32000), (0xE0000, 0xE0200)):
        letters = [unicodedata.category(chr(point))[0] for point in range(start, end)]
        table[start:end] = [
            _LETTER if kind == "L" or (marks and kind == "M") else _NUMBER if kind == "N" else _OTHER
            for kind in letters
        ]
    table[list(_WHITE)] = _SPACE
    table[[0x0A, 0x0D]] = _NEWLINE
    return table


@njit(types.uint8[::1](_TEXT, types.uint8[::1]), cache=True, nogil=True)
def _classify(text: NDArray[np.uint8], classes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Class of each byte, that of its character; 128 is added to all bytes of a character but its first."""
    out = np.empty(len(text), np.uint8)
    i = 0
    while i < len(text):
        first = np.int64(text[i])
        if first < 0x80:
            out[i] = classes[first]
            i += 1
            continue
        size, point = (2, first & 0x1F) if first < 0xE0 else ((3, first & 0x0F) if first < 0xF0 else (4, first & 0x07))
        size = min(size, len(text) - i)
        for k in range(1, size):
            point = (point << 6) | (np.int64(text[i + k]) & 0x3F)
        kind = classes[point if point < 0x110000 else 0]
        out[i] = kind
        for k in range(1, size):
            out[i + k] = kind | 128
        i += size
    return out


@njit("int64(uint8[::1], int64, int64, uint8)", cache=True, nogil=True)
def _run(kinds: NDArray[np.uint8], start: int, end: int, kind: int) -> int:
    """Where a run of one class ends."""
    while start < end and kinds[start] & 127 == kind:
        start += 1
    return start


@njit(types.int64(_TEXT, types.int64, types.int64), cache=True, nogil=True)
def _contraction(text: NDArray[np.uint8], i: int, end: int) -> int:
    """Bytes of an English contraction's ending that begins here, 0 for none."""
    if text[i] != 39 or i + 1 >= end:
        return 0
    first = text[i + 1] | 32
    if first == 115 or first == 116 or first == 109 or first == 100:  # s t m d
        return 2
    second = text[i + 2] | 32 if i + 2 < end else 0
    if ((first == 114 or first == 118) and second == 101) or (first == 108 and second == 108):  # re ve ll
        return 3
    return 0


@njit(types.int64(_TEXT, types.uint8[::1], types.int64, types.int64, types.int64), cache=True, nogil=True)
def _word_end(text: NDArray[np.uint8], kinds: NDArray[np.uint8], i: int, end: int, digits: int) -> int:
    """Where the word that begins at ``i`` ends; the alternatives of the pattern in their order."""
    short = _contraction(text, i, end)
    if short:
        return i + short
    kind = kinds[i]
    following = i + 1
    while following < end and kinds[following] >= 128:
        following += 1
    if kind == _LETTER:
        return _run(kinds, following, end, _LETTER)
    if kind == _NUMBER:
        for _ in range(digits - 1):
            if following < end and kinds[following] == _NUMBER:
                following += 1
                while following < end and kinds[following] >= 128:
                    following += 1
        return following
    if kind != _NEWLINE and following < end and kinds[following] == _LETTER:
        return _run(kinds, following, end, _LETTER)
    if kind == _OTHER or (text[i] == 32 and following < end and kinds[following] == _OTHER):
        return _run(kinds, _run(kinds, following, end, _OTHER), end, _NEWLINE)
    stop = newline = i
    last = i
    while stop < end and (kinds[stop] & 127 == _SPACE or kinds[stop] == _NEWLINE):
        if kinds[stop] < 128:
            last = stop
        stop += 1
        if kinds[stop - 1] == _NEWLINE:
            newline = stop
    if newline > i:
        return newline
    return stop if stop == end or last == i else last


@njit(types.uint64(_TEXT, types.int64, types.int64), cache=True, nogil=True)
def _hash(text: NDArray[np.uint8], start: int, end: int) -> np.uint64:
    code = np.uint64(14695981039346656037)
    for i in range(start, end):
        code = (code ^ np.uint64(text[i])) * np.uint64(1099511628211)
    return code ^ (code >> np.uint64(32))


@njit(types.uint64(types.uint64[:, ::1], types.uint64), cache=True, nogil=True)
def _find(slots: NDArray[np.uint64], code: np.uint64) -> np.uint64:
    """The slot of a hash, or the free one where it belongs."""
    mask = np.uint64(len(slots) - 1)
    at = code & mask
    while slots[at, 1] and slots[at, 0] != code:
        at = (at + np.uint64(1)) & mask
    return at


@njit(cache=True, nogil=True)
def _insert(table: _Table, size: int, text: NDArray[np.uint8], start: int, end: int, code: np.uint64) -> _Table:
    """A table with one more word, which has not occurred yet, moved to more room where it is full."""
    slots, words, ends = table
    first = ends[size - 1] if size else 0
    needed = first + end - start
    if needed > len(words):
        longer = np.empty(2 * needed, np.uint8)
        longer[:first] = words[:first]
        words = longer
    words[first:needed] = text[start:end]
    if size == len(ends):
        more = np.empty(2 * size, np.int64)
        more[:size] = ends
        ends = more
        wider = np.zeros((2 * len(slots), 4), np.uint64)
        for row in range(len(slots)):
            if slots[row, 1]:
                wider[_find(wider, slots[row, 0])] = slots[row]
        slots = wider
    ends[size] = needed
    slot = _find(slots, code)
    slots[slot, 0], slots[slot, 2] = code, size
    return _Table(slots, words, ends)


@njit(cache=True, nogil=True)
def _count(
    table: _Table, size: int, text: NDArray[np.uint8], kinds: NDArray[np.uint8], offsets: NDArray[np.int64], digits: int
) -> tuple[_Table, int]:
    """Count the words of documents."""
    # Unpacked, because taking an array out of the tuple for every word costs more than looking the word up.
    slots, words, ends = table
    for document in range(len(offsets) - 1):
        i, stop = offsets[document], offsets[document + 1]
        word_end = i
        while i < stop:
            # What is left of a word that was cut is not looked for again.
            if i == word_end:
                word_end = _word_end(text, kinds, i, stop, digits)
            end = word_end
            if end - i > MAX_WORD:
                end = i + MAX_WORD
                while end > i + 1 and text[end] & 0xC0 == 0x80:
                    end -= 1
            code = _hash(text, i, end)
            slot = _find(slots, code)
            if slots[slot, 1] == 0:
                slots, words, ends = _insert(_Table(slots, words, ends), size, text, i, end, code)
                slot = _find(slots, code)
                size += 1
            slots[slot, 1] += np.uint64(1)
            i = end
    return _Table(slots, words, ends), size


@njit(cache=True, nogil=True)
def _merge(
    table: _Table, size: int, text: NDArray[np.uint8], word_ends: NDArray[np.int64], counts: NDArray[np.int64]
) -> tuple[_Table, int]:
    """Add words that were counted elsewhere."""
    slots, words, ends = table
    start = 0
    for word in range(len(word_ends)):
        end = word_ends[word]
        code = _hash(text, start, end)
        slot = _find(slots, code)
        if slots[slot, 1] == 0:
            slots, words, ends = _insert(_Table(slots, words, ends), size, text, start, end, code)
            slot = _find(slots, code)
            size += 1
        slots[slot, 1] += np.uint64(counts[word])
        start = end
    return _Table(slots, words, ends), size


class WordCounter:
    """Counts the words of documents as they come."""

    def __init__(self, split: Split) -> None:
        self._digits = split.digits
        self._classes = _classes(split.marks)
        room = 1 << 14
        self._table = _Table(
            np.zeros((2 * room, 4), np.uint64), np.zeros(16 * room, np.uint8), np.zeros(room, np.int64)
        )
        self._size = 0

    def add(self, text: NDArray[np.uint8], offsets: NDArray[np.int64]) -> None:
        """Count the words of documents.

        Args:
            text: UTF-8 of the documents one after the other: ``[bytes]``.
            offsets: Where each begins, and where the last ends: ``[documents + 1]``.
        """
        text = _read_only(text[offsets[0] : offsets[-1]])
        places = np.ascontiguousarray(offsets, np.int64) - offsets[0]
        kinds = _classify(text, self._classes)
        self._table, self._size = _count(self._table, self._size, text, kinds, places, self._digits)

    def merge(self, words: WordCounts) -> None:
        """Add what another counter has found."""
        self._table, self._size = _merge(self._table, self._size, _read_only(words.text), words.ends, words.counts)

    def result(self) -> WordCounts:
        """The words, in the order in which they were first seen."""
        ends = self._table.ends[: self._size]
        length = int(ends[-1]) if self._size else 0
        used = self._table.slots[self._table.slots[:, 1] > 0]
        counts = np.empty(self._size, np.int64)
        counts[used[:, 2].astype(np.int64)] = used[:, 1]
        return WordCounts(self._table.text[:length].copy(), ends.copy(), counts)


def _read_only(text: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """What comes from Arrow cannot be written to; one type means that the kernels are compiled once."""
    view = np.ascontiguousarray(text).view()
    view.flags.writeable = False
    return view
