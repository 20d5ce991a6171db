"""What kind of character each code point is, as one table that compiled loops can read."""

import functools
import unicodedata

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.uint32]
Classes = NDArray[np.uint8]

SPACE = 1
"""White space, as ``str.split`` sees it."""
LETTER = 2
"""``str.isalpha``."""
SYMBOL = 4
"""Punctuation, symbols, control characters and whatever else is neither letter, mark, number nor white space."""
UNSPACED = 8
"""Of a script that is written without spaces between words: a character counts as a word."""
HIRAGANA = 16
KATAKANA = 32
KANJI = 64
WORD = 128
"""Letter, mark or digit of a script with spaces between words."""

_POINTS = 0x110000
# Planes 4 to 13 are unassigned; 14 holds tags and variation selectors, 15 and 16 are for private use.
_ASSIGNED = 0x40000
_UNSPACED_RANGES = (
    (0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x3005, 0x3007), (0x3040, 0x312F), (0x31F0, 0x31FF),
    (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0xFF66, 0xFF9F), (0x20000, 0x3FFFF),
)  # fmt: skip
_HIRAGANA_RANGES = ((0x3041, 0x3096), (0x309D, 0x309F))
_KATAKANA_RANGES = ((0x30A1, 0x30FA), (0x30FC, 0x30FF), (0x31F0, 0x31FF), (0xFF66, 0xFF9F))
_KANJI_RANGES = ((0x3005, 0x3007), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x3FFFF))


@functools.cache
def classes() -> Classes:
    """The class bits of every code point: ``[0x110000]``."""
    table = np.full(_POINTS, SYMBOL, np.uint8)
    table[:_ASSIGNED] = [_bits(chr(point)) for point in range(_ASSIGNED)]
    for ranges, bit in (
        (_UNSPACED_RANGES, UNSPACED), (_HIRAGANA_RANGES, HIRAGANA), (_KATAKANA_RANGES, KATAKANA),
        (_KANJI_RANGES, KANJI),
    ):  # fmt: skip
        for first, last in ranges:
            table[first : last + 1] |= bit
    table[(table & UNSPACED) != 0] &= np.uint8(255 - WORD)
    table.setflags(write=False)
    return table


def _bits(character: str) -> int:
    category = unicodedata.category(character)[0]
    if character.isspace():
        return SPACE
    if category in "PSCZ":
        return SYMBOL
    return WORD | LETTER if character.isalpha() else WORD


def points(text: str) -> Points:
    """A text's code points, lone surrogates included: ``[len(text)]``."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
