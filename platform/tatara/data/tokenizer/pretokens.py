"""Counting the words of text, compiled."""

from typing import NamedTuple

import numpy as np
from numba import njit, types
from numpy.typing import NDArray

from tatara.data.tokenizer.splits import Split
from tatara.data.tokenizer.word_ends import TEXT, classes_of, classify, find_word_end

MAX_WORD = 256
"""Longest word that is learnt from, bytes; longer ones are cut. Without it the work would grow with the square of a
run of letters without a space."""


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


@njit(types.uint64(TEXT, types.int64, types.int64), cache=True, nogil=True)
def _hash(text: NDArray[np.uint8], start: int, end: int) -> np.uint64:
    code = np.uint64(14695981039346656037)
    for i in range(start, end):
        code = (code ^ np.uint64(text[i])) * np.uint64(1099511628211)
    code = (code ^ (code >> np.uint64(32))) * np.uint64(0x9E3779B97F4A7C15)
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
def _count_known(
    slots: NDArray[np.uint64],
    text: NDArray[np.uint8],
    kinds: NDArray[np.uint8],
    place: tuple[int, int, int],
    stop: int,
    digits: int,
) -> tuple[int, int, int]:
    """Count words from a place on, up to one that is not in the table.

    Args:
        slots: The table.
        text: UTF-8 of documents.
        kinds: See `classify`.
        place: Where the word begins, where its piece ends, and where it ends; the first and the last are alike where
            the next word is still to be found.
        stop: Where the document ends.
        digits: Digits in a word at most.

    Returns:
        The place of the word that is not in the table; it begins at ``stop`` if there is none.
    """
    i, end, word_end = place
    while i < stop:
        # What is left of a word that was cut is not looked for again.
        if i == word_end:
            word_end = find_word_end(text, kinds, i, stop, digits)
        end = word_end
        if end - i > MAX_WORD:
            end = i + MAX_WORD
            while end > i + 1 and text[end] & 0xC0 == 0x80:
                end -= 1
        slot = _find(slots, _hash(text, i, end))
        if slots[slot, 1] == 0:
            break
        slots[slot, 1] += np.uint64(1)
        i = end
    return i, end, word_end


@njit(cache=True, nogil=True)
def _count(
    table: _Table, size: int, text: NDArray[np.uint8], kinds: NDArray[np.uint8], offsets: NDArray[np.int64], digits: int
) -> tuple[_Table, int]:
    """Count the words of documents."""
    for document in range(len(offsets) - 1):
        i, stop = offsets[document], offsets[document + 1]
        word_end = i
        # In a loop of its own, which sees one table: counting references to one that may change costs more than the
        # words do.
        while True:
            i, end, word_end = _count_known(table.slots, text, kinds, (i, i, word_end), stop, digits)
            if i == stop:
                break
            code = _hash(text, i, end)
            table = _insert(table, size, text, i, end, code)
            table.slots[_find(table.slots, code), 1] += np.uint64(1)
            size += 1
            i = end
    return table, size


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
        self._classes = classes_of(split.marks)
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
        kinds = classify(text, self._classes)
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
