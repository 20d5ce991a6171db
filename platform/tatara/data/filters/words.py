"""What a word is where no tokenizer is at hand, and counts over a document's words in one compiled pass.

A word is a maximal run of characters other than white space, as ``str.split`` finds it, except that in scripts without
spaces between words (Japanese, Chinese, Thai, Lao, Burmese, Khmer) every character is a word. Parameters for these
languages are scaled by `per_language.CHARACTERS_PER_WORD`.
"""

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from tatara.data.filters.characters import LETTER, SPACE, SYMBOL, UNSPACED, Classes, Points, classes, points


def split_words(text: str) -> list[str]:
    """The words of a text; equal to ``text.split()`` where every script has spaces between words."""
    if text.isascii():
        return text.split()
    starts, lengths = word_spans(points(text), classes())
    return [text[start : start + length] for start, length in zip(starts.tolist(), lengths.tolist(), strict=True)]


@njit(cache=True, nogil=True)
def word_spans(text: Points, table: Classes) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Where words begin and how many characters they have: ``[words]`` each."""
    starts = np.empty(len(text), np.int32)
    lengths = np.empty(len(text), np.int32)
    count = 0
    begin = -1
    for index in range(len(text)):
        bits = table[text[index]]
        if bits & (SPACE | UNSPACED):
            if begin >= 0:
                starts[count] = begin
                lengths[count] = index - begin
                count += 1
                begin = -1
            if bits & UNSPACED:
                starts[count] = index
                lengths[count] = 1
                count += 1
        elif begin < 0:
            begin = index
    if begin >= 0:
        starts[count] = begin
        lengths[count] = len(text) - begin
        count += 1
    return starts[:count], lengths[:count]


def count_words(text: str) -> int:
    """How many words a text has."""
    return int(_count_words(points(text), classes()))


@njit(cache=True, nogil=True)
def _count_words(text: Points, table: Classes) -> int:
    count = 0
    apart = True
    for point in text:
        unspaced = (table[point] & UNSPACED) != 0
        space = (table[point] & SPACE) != 0
        # A word begins behind white space or a character that is one by itself.
        count += unspaced | (apart & (not space))
        apart = space | unspaced
    return count


@dataclass(frozen=True)
class Shapes:
    """Counts over a text's words.

    Attributes:
        words: Words.
        plain: Words that are not made of punctuation and symbols alone.
        plain_characters: Characters of those.
        lettered: Words that hold a letter.
        hashes: How often "#" occurs.
        ellipses: How often "…" and "..." occur.
        newlines: How often a newline occurs.
    """

    words: int
    plain: int
    plain_characters: int
    lettered: int
    hashes: int
    ellipses: int
    newlines: int


def word_shapes(text: str) -> Shapes:
    """Counts over a text's words."""
    return Shapes(*_word_shapes(points(text), classes()))


@njit(cache=True, nogil=True)
def _word_shapes(text: Points, table: Classes) -> tuple[int, int, int, int, int, int, int]:
    words = plain = plain_characters = lettered = hashes = ellipses = newlines = 0
    length = dots = 0
    seen = 0
    for index in range(len(text) + 1):
        point = text[index] if index < len(text) else np.uint32(32)
        bits = table[point]
        if bits & (SPACE | UNSPACED) and length:
            words += 1
            if seen & ~SYMBOL:
                plain += 1
                plain_characters += length
            lettered += (seen & LETTER) != 0
            length = seen = 0
        if bits & UNSPACED:
            words += 1
            if not bits & SYMBOL:
                plain += 1
                plain_characters += 1
            lettered += (bits & LETTER) != 0
        elif not bits & SPACE:
            length += 1
            seen |= bits
        dots = dots + 1 if point == 0x2E else 0
        if dots == 3:
            dots = 0
            ellipses += 1
        hashes += point == 0x23
        ellipses += point == 0x2026
        newlines += point == 0x0A
    return words, plain, plain_characters, lettered, hashes, ellipses, newlines
