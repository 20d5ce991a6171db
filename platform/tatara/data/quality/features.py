"""Hashed n-grams of a text, in one pass of compiled code over its bytes."""

from collections.abc import Sequence

import numba
import numpy as np
from numpy.typing import NDArray

Features = NDArray[np.int32]

_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_PRIME = np.uint64(0x100000001B3)
_BASIS = np.uint64(0xCBF29CE484222325)
_SPACE, _LETTER, _MARK = 0, 1, 2


def _classes() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Of each byte what it does (space, letter or mark), and what it counts as: no case, every digit a zero."""
    kinds = np.full(256, _LETTER, np.uint8)
    folded = np.arange(256, dtype=np.uint8)
    for code in range(128):
        character = chr(code)
        if character.isalnum() or character == "_":
            folded[code] = ord("0" if character.isdigit() else character.lower())
        else:
            kinds[code] = _SPACE if code <= 32 or code == 127 else _MARK
    # Where lines end says much of what a text is.
    kinds[10] = _MARK
    return kinds, folded


_KINDS, _FOLDED = _classes()


def hashed(texts: Sequence[str], bits: int, ngrams: int = 2) -> tuple[Features, NDArray[np.int64]]:
    """The hashed n-grams of texts.

    Units are words without case and with zeros for digits, punctuation marks, ends of lines and, in scripts without
    spaces between words, characters. Every unit counts, with ``ngrams`` above 1 also each pair of neighbours, and each
    three characters of a script without spaces.

    Args:
        texts: Any texts.
        bits: Features are below ``2**bits``.
        ngrams: 1 or 2.

    Returns:
        Features of all texts in order, repeated as often as they occur, and where each text's end: ``[len(texts)]``.
    """
    encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
    ends = np.cumsum([len(each) for each in encoded], dtype=np.int64)
    raw = np.frombuffer(b"".join(encoded), np.uint8)
    out = np.empty(raw.size * (2 * ngrams - 1), np.int32)
    count = _hash_all(raw, ends, _KINDS, _FOLDED, np.uint64(64 - bits), ngrams, out)
    return out[:count], ends


@numba.njit(cache=True, nogil=True)
def _mix(value):  # type: ignore[no-untyped-def]
    value = (value ^ (value >> np.uint64(32))) * _MULTIPLIER
    return value ^ (value >> np.uint64(29))


@numba.njit(cache=True, nogil=True)
def _unspaced(raw, place):  # type: ignore[no-untyped-def]
    """Bytes of the character here if it is a unit of its own (CJK, Thai, general punctuation), else 0."""
    first = raw[place]
    if place + 2 >= raw.size or first < 0xE0:
        return 0
    second = raw[place + 1]
    if 0xE3 <= first <= 0xE9:  # U+3000 to U+9FFF
        return 3
    if first == 0xE2:  # U+2000 to U+206F and arrows, symbols: marks
        return 3 if second <= 0x81 or second >= 0x86 else 0
    if first == 0xE0:  # Thai and Lao
        return 3 if 0xB8 <= second <= 0xBB else 0
    if first == 0xE1:  # Burmese, Khmer
        return 3 if second in (0x80, 0x81, 0x82, 0x9E, 0x9F) else 0
    if first == 0xEF:  # compatibility ideographs, full-width forms
        return 3 if second >= 0xA4 else 0
    return 4 if first == 0xF0 and place + 3 < raw.size and second >= 0x9F else 0


@numba.njit(cache=True, nogil=True)
def _hash(raw, kinds, folded, shift, ngrams, out, count):  # type: ignore[no-untyped-def]
    """Append one text's features to ``out``; returns how many there are now."""
    first, place, size = count, 0, raw.size
    before, before_that = np.uint64(0), np.uint64(0)
    characters = 0  # in a row, of scripts without spaces
    while place < size:
        code = raw[place]
        kind = kinds[code]
        if kind == _SPACE:
            place += 1
            continue
        length = _unspaced(raw, place) if code >= 0xE0 else 0
        unit = _BASIS
        if length:
            for index in range(place, place + length):
                unit = (unit ^ np.uint64(raw[index])) * _PRIME
            place += length
            characters += 1
        elif kind == _MARK:
            unit = (unit ^ np.uint64(code)) * _PRIME
            place += 1
            # A row of the same mark (rules, blank lines) is one unit.
            while place < size and raw[place] == code:
                place += 1
            characters = 0
        else:
            while place < size and kinds[raw[place]] == _LETTER and (raw[place] < 0xE0 or not _unspaced(raw, place)):
                unit = (unit ^ np.uint64(folded[raw[place]])) * _PRIME
                place += 1
            characters = 0
        unit = _mix(unit)
        out[count] = unit >> shift
        count += 1
        if ngrams > 1:
            if count > first + 1:
                out[count] = _mix(before * _PRIME + unit) >> shift
                count += 1
            if characters > 2:
                out[count] = _mix((before_that * _PRIME + before) * _PRIME + unit) >> shift
                count += 1
            before_that, before = before, unit
    return count


@numba.njit(cache=True, nogil=True)
def _hash_all(raw, ends, kinds, folded, shift, ngrams, out):  # type: ignore[no-untyped-def]
    """Fill ``out`` and turn ``ends`` from ends of texts into ends of their features."""
    count, start = 0, 0
    for row in range(ends.size):
        end = ends[row]
        count = _hash(raw[start:end], kinds, folded, shift, ngrams, out, count)
        ends[row] = count
        start = end
    return count
