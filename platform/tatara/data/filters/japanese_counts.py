"""Counts over a Japanese text, in one compiled pass."""

from dataclasses import dataclass

import numpy as np
from numba import njit

from tatara.data.filters.characters import (
    HIRAGANA,
    KANJI,
    KATAKANA,
    SPACE,
    Classes,
    Points,
    classes,
    points,
)

# A line as long as this, with hiragana in it and no end of sentence behind it, goes on in the next: it was wrapped.
_WRAPPED = 25
# Headlines in a list look alike, but no sentence comes to an end after a few of them.
_MOST_WRAPS = 3


@dataclass(frozen=True)
class JapaneseCounts:
    """Counts over a text.

    Sentences end with one of 。．！？!? or with their line, unless it is wrapped. Those without hiragana do not count.

    Attributes:
        visible: Characters other than white space.
        hiragana: Hiragana.
        katakana: Katakana, with ー.
        kanji: Kanji.
        marks: The marks 、，。．！？.
        sentences: Sentences.
        sentence_characters: Characters of all sentences, white space around them left out.
        longest: Characters of the longest sentence.
        ellipses: Sentences that end with … or ・.
        closed: Kana and kanji in sentences that end with a mark or a closing bracket, not merely with their line.
        listed: Katakana and kanji in rows of many without hiragana or end of sentence among them.
    """

    visible: int
    hiragana: int
    katakana: int
    kanji: int
    marks: int
    sentences: int
    sentence_characters: int
    longest: int
    ellipses: int
    closed: int
    listed: int

    @property
    def japanese(self) -> int:
        """Japanese characters: kana, kanji and marks."""
        return self.hiragana + self.katakana + self.kanji + self.marks


def japanese_counts(text: str, noun_run: int) -> JapaneseCounts:
    """Counts over a text; ``noun_run`` is from how many katakana and kanji on a row counts as listed."""
    return JapaneseCounts(*_counts(points(text), classes(), noun_run))


@njit(cache=True, nogil=True)
def _counts(
    text: Points, table: Classes, noun_run: int
) -> tuple[int, int, int, int, int, int, int, int, int, int, int]:
    visible = hiragana = katakana = kanji = marks = 0
    sentences = sentence_characters = longest = ellipses = closed = listed = 0
    begin = -1
    last = run = letters = soft = wraps = 0
    for index in range(len(text) + 1):
        point = text[index] if index < len(text) else np.uint32(0x0A)
        bits = table[point]
        space = bits & SPACE
        visible += not space
        full_stop = point in (0x3002, 0xFF0E, 0xFF01, 0xFF1F)
        marks += full_stop or point == 0x3001 or point == 0xFF0C
        hiragana += (bits & HIRAGANA) != 0
        soft += (bits & HIRAGANA) != 0
        katakana += (bits & KATAKANA) != 0
        kanji += (bits & KANJI) != 0
        letters += (bits & (HIRAGANA | KATAKANA | KANJI)) != 0
        run += (bits & (KATAKANA | KANJI)) != 0
        if bits & HIRAGANA or full_stop or index == len(text):
            listed += run if run >= noun_run else 0
            run = 0
        stop = full_stop or point == 0x21 or point == 0x3F
        if not space and (begin >= 0 or not stop):
            last = index
            begin = index if begin < 0 else begin
        if begin < 0 or not (stop or point == 0x0A):
            continue
        size = last + 1 - begin
        if (
            index + 1 < len(text)
            and not stop
            and soft
            and size >= _WRAPPED
            and wraps < _MOST_WRAPS
            and text[index + 1] != 0x0A
        ):
            wraps += 1
            continue
        end = text[last]
        if soft:
            sentences += 1
            sentence_characters += size
            longest = max(longest, size)
            ellipses += end == 0x2026 or end == 0x30FB
            closed += letters if stop or end in (0x300D, 0x300F, 0xFF09) else 0
        begin = -1
        soft = letters = wraps = 0
    return (
        visible, hiragana, katakana, kanji, marks, sentences, sentence_characters, longest, ellipses, closed, listed
    )  # fmt: skip
