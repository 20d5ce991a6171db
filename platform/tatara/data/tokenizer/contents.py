"""Which symbol stands for which bytes, by a hash that two symbols' hashes combine to."""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from tatara.data.tokenizer.pair_tables import find, grown

BASE = 0xD6E8FEB86659FD93
"""Odd multiplier of `content_code`."""


@njit("int64(uint64)", cache=True, nogil=True)
def _content_key(code: np.uint64) -> np.int64:
    # Codes of similar bytes differ in their low bits; a key is not negative.
    return np.int64((np.uint64(code) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(1))


@njit(cache=True, nogil=True)
def merged_symbol(
    contents: NDArray[np.int64], values: NDArray[np.uint64], left: int, right: int, number: int
) -> tuple[NDArray[np.int64], int]:
    """The symbol of two symbols' bytes: one that is there already, or ``number``, which is entered."""
    code = values[left, 0] * values[right, 1] + values[right, 0]
    key = _content_key(code)
    row = find(contents, key)
    if contents[row, 0] >= 0:
        return contents, contents[row, 1]
    if 2 * number > len(contents):
        contents = grown(contents)
        row = find(contents, key)
    contents[row, 0], contents[row, 1] = key, number
    values[number, 0], values[number, 1] = code, values[left, 1] * values[right, 1]
    return contents, number


@njit(cache=True, nogil=True)
def known_contents(values: NDArray[np.uint64], symbols: int) -> NDArray[np.int64]:
    """Hash table of the bytes of the symbols that there are."""
    contents = np.full((1 << 12, 2), -1, np.int64)
    while 2 * symbols > len(contents):
        contents = np.full((2 * len(contents), 2), -1, np.int64)
    for symbol in range(symbols):
        key = _content_key(values[symbol, 0])
        row = find(contents, key)
        if contents[row, 0] < 0:
            contents[row, 0], contents[row, 1] = key, symbol
    return contents


def content_code(content: bytes) -> tuple[int, int]:
    """A hash of bytes that is that of their concatenation's parts combined, and what it takes to combine it."""
    code, power, modulus = 0, 1, 1 << 64
    for byte in content:
        code = (code * BASE + byte + 1) % modulus
        power = power * BASE % modulus
    return code, power
