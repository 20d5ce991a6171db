"""Where words end, compiled: the patterns of `splits` as a state machine over UTF-8."""

import functools
import unicodedata

import numpy as np
from numba import njit, types
from numpy.typing import NDArray

_OTHER, _LETTER, _NUMBER, _SPACE, _NEWLINE = range(5)
TEXT = types.Array(types.uint8, 1, "C", readonly=True)
"""What comes from Arrow cannot be written to; one type means that kernels are compiled once."""
_WHITE = (0x09, 0x0B, 0x0C, 0x20, 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x2028, 0x2029, 0x202F, 0x205F, 0x3000)


@functools.cache
def classes_of(marks: bool) -> NDArray[np.uint8]:
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


@njit(types.uint8[::1](TEXT, types.uint8[::1]), cache=True, nogil=True)
def classify(text: NDArray[np.uint8], classes: NDArray[np.uint8]) -> NDArray[np.uint8]:
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


@njit(types.int64(TEXT, types.int64, types.int64), cache=True, nogil=True)
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


@njit(types.int64(TEXT, types.uint8[::1], types.int64, types.int64, types.int64), cache=True, nogil=True)
def find_word_end(text: NDArray[np.uint8], kinds: NDArray[np.uint8], i: int, end: int, digits: int) -> int:
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
