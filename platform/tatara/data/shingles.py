"""Hashes of word n-grams for many texts at once, in one pass of compiled code over their bytes."""

from collections.abc import Sequence
from functools import cache

import numpy as np
from numba import njit
from numpy.typing import NDArray

_Hashes = NDArray[np.uint64]
_TABLE = 0x20000
# Scripts without spaces between words: each character counts as a word.
_UNSPACED = (
    (0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x3040, 0x30FF), (0x3400, 0x9FFF), (0xF900, 0xFAFF),
)  # fmt: skip
_SEPARATOR, _LETTER, _WORD = 0, 1, 2


def normalise(text: str) -> str:
    """A text as deduplication compares it: case-folded, white space collapsed."""
    return " ".join(text.casefold().split())


def shingle_hashes(texts: Sequence[str], ngram: int) -> tuple[_Hashes, _Hashes]:
    """Hash every run of ``ngram`` words of each text; a shorter text is one shingle, one without words none.

    Words are maximal runs of letters and digits, in lower case; where a script has no spaces between words, each
    character is one.

    Args:
        texts: Texts; whether they are normalised does not matter.
        ngram: Words per shingle.

    Returns:
        Hashes of all texts' shingles one after the other, and where each text's begin: ``[len(texts) + 1]``.
    """
    encoded = [text.encode("utf-8", errors="replace") for text in texts]
    ends = np.zeros(len(encoded), np.int64)
    np.cumsum([len(each) for each in encoded], out=ends)
    kinds, lower = _characters()
    return _hash_shingles(np.frombuffer(b"".join(encoded), np.uint8), ends, kinds, lower, ngram)


def mix(values: _Hashes) -> _Hashes:
    """Spread every input bit over the output (the finaliser of MurmurHash3)."""
    values = values ^ (values >> np.uint64(33))
    values *= np.uint64(0xFF51AFD7ED558CCD)
    values ^= values >> np.uint64(33)
    values *= np.uint64(0xC4CEB9FE1A85EC53)
    return values ^ (values >> np.uint64(33))


@cache
def _characters() -> tuple[NDArray[np.uint8], NDArray[np.uint32]]:
    """Of each code point what it does to words, and its lower case: ``[131072]``."""
    characters = [chr(code) for code in range(_TABLE)]
    kinds = np.array([character.isalnum() for character in characters], np.uint8)
    for first, last in _UNSPACED:
        kinds[first : last + 1] *= _WORD
    lower = [character.lower() for character in characters]
    codes = [ord(small) if len(small) == 1 else code for code, small in enumerate(lower)]
    return kinds, np.array(codes, np.uint32)


@njit("u8(u8)", cache=True, nogil=True, inline="always")
def mix_one(value: np.uint64) -> np.uint64:
    """As `mix`, for compiled code."""
    value ^= value >> np.uint64(33)
    value *= np.uint64(0xFF51AFD7ED558CCD)
    value ^= value >> np.uint64(33)
    value *= np.uint64(0xC4CEB9FE1A85EC53)
    return value ^ (value >> np.uint64(33))


@njit("Tuple((i8, u4))(Array(u1, 1, 'C', readonly=True), i8)", cache=True, nogil=True, inline="always")
def decode(joined: NDArray[np.uint8], at: int) -> tuple[int, np.uint32]:
    """The end and the code point of the UTF-8 sequence of two to four bytes that begins somewhere."""
    byte = joined[at]
    if byte < 0xE0:
        return at + 2, np.uint32((byte & 0x1F) << 6 | (joined[at + 1] & 0x3F))
    if byte < 0xF0:
        return at + 3, np.uint32((byte & 0x0F) << 12 | (joined[at + 1] & 0x3F) << 6 | (joined[at + 2] & 0x3F))
    high = (byte & 0x07) << 18 | (joined[at + 1] & 0x3F) << 12
    return at + 4, np.uint32(high | (joined[at + 2] & 0x3F) << 6 | (joined[at + 3] & 0x3F))


@njit("UniTuple(i8, 2)(u8[::1], u8[::1], i8, i8, u8, u8, i8)", cache=True, nogil=True, inline="always")
def _push(
    ring: _Hashes, hashes: _Hashes, words: int, count: int, word: np.uint64, leaving: np.uint64, ngram: int
) -> tuple[int, int]:
    """Add a word to a text's running n-gram, which is kept behind the ring of its last words."""
    size = len(ring) - 1  # a power of two
    word = mix_one(word)
    gram = ring[size] * np.uint64(0xD6E8FEB86659FD93) + word - leaving * ring[(words - ngram) & (size - 1)]
    ring[words & (size - 1)], ring[size] = word, gram
    if words + 1 >= ngram:
        hashes[count] = mix_one(gram)
        count += 1
    return words + 1, count


@njit(
    "Tuple((u8[::1], u8[::1]))(Array(u1, 1, 'C', readonly=True), i8[::1], u1[::1], u4[::1], i8)",
    cache=True,
    nogil=True,
)
def _hash_shingles(
    joined: NDArray[np.uint8],
    ends: NDArray[np.int64],
    kinds: NDArray[np.uint8],
    lower: NDArray[np.uint32],
    ngram: int,
) -> tuple[_Hashes, _Hashes]:
    # A word takes two bytes at least, its separator included, or is a character of three.
    hashes = np.empty(len(joined) // 2 + len(ends) + 1, np.uint64)
    bounds = np.zeros(len(ends) + 1, np.uint64)
    size = 1
    while size <= ngram:
        size *= 2
    ring = np.zeros(size + 1, np.uint64)
    prime, leaving = np.uint64(0x9E3779B97F4A7C15), np.uint64(1)
    for _ in range(ngram):
        leaving *= np.uint64(0xD6E8FEB86659FD93)
    plain = np.zeros(256, np.uint8)  # lower case of what belongs to words in ASCII
    for byte in range(128):
        plain[byte] = lower[byte] if kinds[byte] == 1 else 0
    count = at = 0
    for text in range(len(ends)):
        end, words = ends[text], 0
        ring[:] = 0
        # A word's hash folds in eight characters of ASCII at a time, or one other.
        word = pending = np.uint64(0)
        inside = False
        while at < end:
            byte = joined[at]
            small = plain[byte]
            if small:
                inside = True
                pending = pending << np.uint64(8) | np.uint64(small)
                at += 1
                if pending >> np.uint64(56):
                    word, pending = mix_one((word ^ pending) * prime), np.uint64(0)
                continue
            kind, code = 0, np.uint32(0)
            if byte < 0x80:
                at += 1
            else:
                at, code = decode(joined, at)
                if code < 0x20000:
                    kind, code = kinds[code], lower[code]
                elif code < 0x323B0:
                    kind = 2  # ideographs
                if kind == 1:
                    inside = True
                    word = mix_one((word ^ pending) * prime + np.uint64(code) + prime)
                    pending = np.uint64(0)
                    continue
            if inside:
                words, count = _push(ring, hashes, words, count, (word ^ pending) * prime, leaving, ngram)
                word = pending = np.uint64(0)
                inside = False
            if kind == 2:
                words, count = _push(ring, hashes, words, count, mix_one(np.uint64(code)), leaving, ngram)
        if inside:
            words, count = _push(ring, hashes, words, count, (word ^ pending) * prime, leaving, ngram)
        if 0 < words < ngram:
            hashes[count] = mix_one(ring[size])
            count += 1
        bounds[text + 1] = count
    return hashes[:count].copy(), bounds
