"""What is counted in each block of text."""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from tatara.data.extract import lexicon
from tatara.data.extract.structure import (
    BREAK,
    CONTEXT,
    FROM,
    IN_BOLD,
    IN_BUTTON,
    IN_LINK,
    KIND,
    LINK,
    OWNER,
    SEGMENT_FROM,
    SEGMENT_TO,
    TO,
)
from tatara.data.extract.tokens import is_space

# Columns of what is counted in a block.
LENGTH, WORD_COUNT, LINKED, BOLD, STOPS, COMMAS, DIGITS, CAPITALS = 0, 1, 2, 3, 4, 5, 6, 7
ENDS, LINKS, BREAKS, OVERLAP, PHRASES, COPIES, HASH = 8, 9, 10, 11, 12, 13, 14
COUNTS = 15
TITLE_WORDS = 64
"""So many words of a title, and of a block, are compared."""
_SYMBOLS, _NEXT, _HITS = lexicon.TEXT_SYMBOLS, lexicon.TEXT_NEXT, lexicon.TEXT_HITS


@njit(cache=True, nogil=True)
def _word(into: NDArray[np.int64], value: int, title: NDArray[np.int64], titles: int) -> None:
    into[WORD_COUNT] += 1
    into[HASH] = (into[HASH] * 1000003 + value) & 0x3FFFFFFF
    if into[WORD_COUNT] <= TITLE_WORDS:
        for place in range(titles):
            if title[place] == value:
                into[OVERLAP] += 1
                break


@njit(cache=True, nogil=True)
def _count_words(
    page: NDArray[np.uint8],
    start: int,
    end: int,
    into: NDArray[np.int64],
    state: NDArray[np.int64],
    linked: int,
    bold: int,
    title: NDArray[np.int64],
    titles: int,
) -> None:
    """Count what is in a segment; `state` goes on from segment to segment: automaton, word's hash, of title, inside."""
    automaton, value, inside = state[0], state[1], state[2]
    phrases = 0
    length = 0
    for at in range(start, end):
        byte = page[at]
        automaton = _NEXT[automaton, _SYMBOLS[byte]]
        phrases |= _HITS[automaton]
        if is_space(byte):
            if inside:
                _word(into, value, title, titles)
                inside = value = 0
            continue
        inside = 1
        if byte < 128:
            length += 1
            if 65 <= byte <= 90:
                into[CAPITALS] += 1
                byte += 32
            elif 48 <= byte <= 57:
                into[DIGITS] += 1
            elif byte == 46 or byte == 33 or byte == 63:
                into[STOPS] += 1
            elif byte == 44:
                into[COMMAS] += 1
            into[ENDS] = byte
        elif byte >= 0xE0:
            # A character of three bytes: in Chinese, Japanese and Korean it says as much as two or three letters.
            length += 2 if byte >= 0xE3 and byte < 0xEE else 1
            if byte == 0xE3 and at + 2 < end and page[at + 1] == 0x80:
                into[STOPS] += page[at + 2] == 0x82
                into[COMMAS] += page[at + 2] == 0x81
                into[ENDS] = 46 if page[at + 2] == 0x82 else 0
            elif byte == 0xEF and at + 2 < end and page[at + 1] == 0xBC:
                into[STOPS] += page[at + 2] == 0x81 or page[at + 2] == 0x9F
                into[COMMAS] += page[at + 2] == 0x8C
                into[ENDS] = 46 if page[at + 2] == 0x81 or page[at + 2] == 0x9F else 0
            else:
                into[ENDS] = 0
        elif byte >= 0xC0:
            length += 1
            into[ENDS] = 0
        value = (value * 31 + byte) & 0x3FFFFFFF
    into[LENGTH] += length
    into[LINKED] += length * linked
    into[BOLD] += length * bold
    into[PHRASES] |= phrases
    state[0], state[1], state[2] = automaton, value, inside


@njit(cache=True, nogil=True)
def _copies(counts: NDArray[np.int64]) -> None:
    """How often each block's text stands on the page besides."""
    size = 16
    while size < 2 * counts.shape[0]:
        size *= 2
    keys = np.full(size, -1, dtype=np.int64)
    found = np.zeros(size, dtype=np.int64)
    for turn in range(2):
        for block in range(counts.shape[0]):
            value = counts[block, HASH]
            place = value & (size - 1)
            while keys[place] != -1 and keys[place] != value:
                place = (place + 1) & (size - 1)
            if turn == 0:
                keys[place] = value
                found[place] += 1
            else:
                counts[block, COPIES] = found[place] - 1


@njit(cache=True, nogil=True)
def count(
    page: NDArray[np.uint8],
    elements: NDArray[np.int32],
    segments: NDArray[np.int32],
    blocks: NDArray[np.int32],
    title: tuple[int, int],
) -> tuple[NDArray[np.int64], int]:
    """Count what is in each block: ``[blocks, COUNTS]``; the words of the title are known by their hashes."""
    total = blocks.shape[0]
    counts = np.zeros((total, COUNTS), dtype=np.int64)
    hashes = np.zeros(TITLE_WORDS, dtype=np.int64)
    titles = 0
    value = 0
    for at in range(title[0], title[1] + 1):
        if at == title[1] or is_space(page[at]):
            if value and titles < TITLE_WORDS:
                hashes[titles] = value
                titles += 1
            value = 0
        else:
            byte = page[at]
            value = (value * 31 + (byte + 32 if 65 <= byte <= 90 else byte)) & 0x3FFFFFFF
    state = np.zeros(3, dtype=np.int64)
    for block in range(total):
        into = counts[block]
        state[0], state[1], state[2] = _NEXT[0, 0], 0, 0
        link = -1
        for index in range(blocks[block, SEGMENT_FROM], blocks[block, SEGMENT_TO]):
            kind, owner = segments[index, KIND], segments[index, OWNER]
            if kind == BREAK:
                into[BREAKS] += 1
                if state[2]:
                    _word(into, state[1], hashes, titles)
                state[0], state[1], state[2] = _NEXT[0, 0], 0, 0
                continue
            context = elements[owner, CONTEXT]
            linked = 1 if context & (IN_LINK | IN_BUTTON) else 0
            if context & IN_LINK and elements[owner, LINK] != link:
                link = elements[owner, LINK]
                into[LINKS] += 1
            _count_words(page, segments[index, FROM], segments[index, TO], into, state, linked,
                         1 if context & IN_BOLD else 0, hashes, titles)  # fmt: skip
        if state[2]:
            _word(into, state[1], hashes, titles)
        into[PHRASES] |= _HITS[_NEXT[state[0], 0]]
        if into[LENGTH] == 0:
            into[LENGTH] = 1
    _copies(counts)
    return counts, titles


@njit(cache=True, nogil=True)
def is_paragraph(counts: NDArray[np.int64], block: int) -> bool:
    """Whether a block reads like a paragraph: long enough, punctuated, and no list of links."""
    length = counts[block, LENGTH]
    return length >= 60 and 3 * counts[block, LINKED] < length and counts[block, STOPS] + counts[block, COMMAS] > 0
