"""Hashes of the lines of texts, as line deduplication compares them."""

from collections.abc import Sequence
from functools import cache

import numpy as np
from numba import njit
from numpy.typing import NDArray

from tatara.data.shingles import decode, mix_one

_TABLE = 0x20000
_OTHER, _LETTER, _DIGIT, _SPACE = 0, 1, 2, 3


@cache
def _characters() -> tuple[NDArray[np.uint8], NDArray[np.uint32]]:
    characters = [chr(code) for code in range(_TABLE)]
    kinds = np.array(
        [
            _DIGIT if each.isdigit() else _LETTER if each.isalnum() else _SPACE if each.isspace() else _OTHER
            for each in characters
        ],
        np.uint8,
    )
    lower = [each.lower() for each in characters]
    return kinds, np.array([ord(low) if len(low) == 1 else code for code, low in enumerate(lower)], np.uint32)


def hash_lines(texts: Sequence[str]) -> tuple[NDArray[np.uint64], NDArray[np.int64], NDArray[np.int64]]:
    """Hash the lines of texts, as splitting at line feeds gives them.

    Of a line its words count, in lower case and with every digit as 0 (CCNet, Wenzek et al. 2020, section 3.1). A line
    without a letter or digit has the hash 0.

    Args:
        texts: The texts.

    Returns:
        Hashes ``[lines]``, characters without white space at either end ``[lines]``, and where each text's lines
        begin ``[texts + 1]``.
    """
    encoded = [text.encode("utf-8", errors="replace") for text in texts]
    ends = np.zeros(len(encoded), np.int64)
    np.cumsum([len(each) for each in encoded], out=ends)
    joined = b"".join(encoded)
    kinds, lower = _characters()
    lines = joined.count(b"\n") + len(encoded)
    return _hash_lines(np.frombuffer(joined, np.uint8), ends, kinds, lower, lines)


@njit(
    "Tuple((u8[::1], i8[::1], i8[::1]))(Array(u1, 1, 'C', readonly=True), i8[::1], u1[::1], u4[::1], i8)",
    cache=True,
    nogil=True,
)
def _hash_lines(
    joined: NDArray[np.uint8],
    ends: NDArray[np.int64],
    kinds: NDArray[np.uint8],
    lower: NDArray[np.uint32],
    lines: int,
) -> tuple[NDArray[np.uint64], NDArray[np.int64], NDArray[np.int64]]:
    hashes = np.zeros(lines, np.uint64)
    characters = np.zeros(lines, np.int64)
    bounds = np.zeros(len(ends) + 1, np.int64)
    at = line = 0
    for text in range(len(ends)):
        value = np.uint64(0)
        worded = gap = False
        length = trailing = 0
        while at <= ends[text]:
            code = np.uint32(10)
            if at == ends[text]:
                at += 1
            else:
                byte = joined[at]
                if byte < 0x80:
                    code = np.uint32(byte)
                    at += 1
                else:
                    at, code = decode(joined, at)
            if code == 10:
                if worded:
                    value = mix_one(value)
                    hashes[line] = value if value else np.uint64(1)
                characters[line] = length - trailing
                line += 1
                value = np.uint64(0)
                worded = gap = False
                length = trailing = 0
                continue
            kind = kinds[code] if code < 0x20000 else (1 if code < 0x323B0 else 0)
            if kind == 3:
                if length:
                    length += 1
                    trailing += 1
            else:
                length += 1
                trailing = 0
            if kind == 1 or kind == 2:
                if gap and worded:
                    value = (value ^ np.uint64(32)) * np.uint64(0x9E3779B97F4A7C15)
                small = np.uint64(48) if kind == 2 else np.uint64(lower[code] if code < 0x20000 else code)
                value = (value ^ small) * np.uint64(0x9E3779B97F4A7C15)
                value ^= value >> np.uint64(32)
                worded, gap = True, False
            else:
                gap = True
        at = ends[text]
        bounds[text + 1] = line
    return hashes, characters, bounds
