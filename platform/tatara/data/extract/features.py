"""What is known of a block of text: of itself, of where it stands, of its neighbours. Input of the classifier."""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from tatara.data.extract import lexicon, tags
from tatara.data.extract.counts import (
    BOLD,
    BREAKS,
    CAPITALS,
    COMMAS,
    COPIES,
    DIGITS,
    ENDS,
    LENGTH,
    LINKED,
    LINKS,
    OVERLAP,
    PHRASES,
    STOPS,
    TITLE_WORDS,
    WORD_COUNT,
    count,
    is_paragraph,
)
from tatara.data.extract.structure import (
    BLOCK_ELEMENT,
    CONTEXT,
    ELEMENT,
    IN_ARTICLE,
    IN_ASIDE,
    IN_BUTTON,
    IN_CODE,
    IN_FIGURE,
    IN_FOOTER,
    IN_FORM,
    IN_HEADER,
    IN_HEADING,
    IN_HIDDEN,
    IN_LIST,
    IN_MAIN,
    IN_NAV,
    IN_PRE,
    IN_QUOTE,
    IN_SECTION,
    IN_TABLE,
    LINK,
    NAMES,
    OWNER,
    PARENT,
    SEGMENT_FROM,
    SIGNATURE,
    TAG,
)

_NAMES, _PHRASES = len(lexicon.NAME_BITS) - 4, len(lexicon.TEXT_BITS)

_CONTEXTS = np.array(
    [
        IN_ARTICLE, IN_MAIN, IN_HEADER, IN_FOOTER, IN_NAV, IN_ASIDE, IN_FORM, IN_TABLE, IN_LIST, IN_FIGURE, IN_QUOTE,
        IN_HIDDEN, IN_BUTTON, IN_SECTION, IN_PRE, IN_HEADING, IN_CODE,
    ],
    dtype=np.int32,
)  # fmt: skip
_GROUPS = np.zeros(len(tags.NAMES), dtype=np.float32)
for _group, _names in enumerate(
    ("p", "div section article main body", "li dd dt", "td th caption", "h1", "h2", "h3", "h4 h5 h6", "pre blockquote",
     "figcaption figure", "header footer aside nav form address", "ul ol dl table tr"), start=1,
):  # fmt: skip
    for _name in _names.split():
        _GROUPS[tags.TAG[_name]] = _group
_H1, _H3, _DIV = tags.TAG["h1"], tags.TAG["h3"], tags.TAG["div"]

_AROUND = (-3, -2, -1, 1, 2, 3)
_LEVELS = 5
OWN = 15
NOWHERE = 12
"""The distance of a name that no element around a block has."""
COMMENT_NAME = OWN + _PHRASES + len(_CONTEXTS) + lexicon.NAME_BITS["comment"]
"""The feature that is the distance to the nearest element named as a place for comments."""
FEATURES = OWN + _PHRASES + len(_CONTEXTS) + _NAMES + 8 + 5 * len(_AROUND) + 6 * _LEVELS + 14


@njit(cache=True, nogil=True)
def _repeats(elements: NDArray[np.int32]) -> NDArray[np.int32]:
    """How many siblings of each block element look like it (same tag and class)."""
    total = elements.shape[0]
    size = 16
    while size < 2 * total:
        size *= 2
    keys = np.full(size, -1, dtype=np.int64)
    found = np.zeros(size, dtype=np.int32)
    places = np.zeros(total, dtype=np.int32)
    for element in range(total):
        if elements[element, BLOCK_ELEMENT] != element and elements[element, LINK] != element:
            places[element] = -1
            continue
        parent = np.int64(elements[elements[element, PARENT], BLOCK_ELEMENT])
        value = (parent * 1000003 + elements[element, TAG] * 8191 + elements[element, SIGNATURE]) & 0x7FFFFFFFFFFF
        place = (value ^ (value >> 17)) & (size - 1)
        while keys[place] != -1 and keys[place] != value:
            place = (place + 1) & (size - 1)
        keys[place] = value
        found[place] += 1
        places[element] = place
    repeats = np.zeros(total, dtype=np.int32)
    for element in range(total):
        if places[element] >= 0:
            repeats[element] = found[places[element]]
    return repeats


@njit(cache=True, nogil=True)
def gather(
    elements: NDArray[np.int32], blocks: NDArray[np.int32], counts: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.int32], NDArray[np.float32], int]:
    """Sums over the text below each element (length, linked, in paragraphs, blocks: ``[elements, 4]``), and more.

    Returns:
        The sums; the last element below each; how much of a container of paragraphs each is, and the one most so.
    """
    total = elements.shape[0]
    sums = np.zeros((total, 4), dtype=np.float32)
    last = np.arange(total).astype(np.int32)
    score = np.zeros(total, dtype=np.float32)
    for block in range(blocks.shape[0]):
        element = blocks[block, ELEMENT]
        length = counts[block, LENGTH]
        sums[element, 0] += length
        sums[element, 1] += counts[block, LINKED]
        sums[element, 3] += 1
        if is_paragraph(counts, block):
            sums[element, 2] += length
            worth = 1.0 + counts[block, COMMAS] + min(length / 100.0, 3.0)
            parent = elements[elements[element, PARENT], BLOCK_ELEMENT]
            if elements[element, TAG] == _DIV:
                parent = element  # text right inside a container
            score[parent] += worth
            score[elements[elements[parent, PARENT], BLOCK_ELEMENT]] += worth / 2
    for element in range(total - 1, 0, -1):
        parent = elements[element, PARENT]
        for column in range(4):
            sums[parent, column] += sums[element, column]
        last[parent] = max(last[parent], last[element])
    top = 0
    best = np.float32(-1.0)
    for element in range(total):
        if score[element] > 0:
            worth = score[element] * (1.0 - sums[element, 1] / max(sums[element, 0], 1.0))
            score[element] = worth
            if worth > best:
                best = worth
                top = element
    return sums, last, score, top


@njit(cache=True, nogil=True)
def _describe(row: NDArray[np.float32], at: int, counts: NDArray[np.int64], block: int, words: int) -> int:
    """The block itself."""
    into = counts[block]
    length = np.float32(into[LENGTH])
    row[at], row[at + 1], row[at + 2] = length, into[WORD_COUNT], into[LINKED] / length
    row[at + 3], row[at + 4], row[at + 5] = into[BOLD] / length, into[STOPS], into[COMMAS]
    row[at + 6], row[at + 7] = into[DIGITS] / length, into[CAPITALS] / length
    ends = into[ENDS]
    row[at + 8] = (
        3 if ends == 46 or ends == 33 or ends == 63 else (2 if ends == 34 or ends == 41 else (1 if ends == 58 else 0))
    )
    row[at + 9], row[at + 10] = length / max(into[WORD_COUNT], 1), into[LINKS]
    row[at + 11], row[at + 12] = into[BREAKS], into[OVERLAP] / max(1, min(into[WORD_COUNT], TITLE_WORDS))
    row[at + 13], row[at + 14] = into[OVERLAP] / max(words, 1), into[COPIES]
    for bit in range(_PHRASES):
        row[at + OWN + bit] = (into[PHRASES] >> bit) & 1
    return at + OWN + _PHRASES


@njit(cache=True, nogil=True)
def _place(row: NDArray[np.float32], at: int, elements: NDArray[np.int32], element: int, owner: int) -> int:
    """What the block is inside of: elements that mean something, and names of elements, by their distance."""
    context = elements[owner, CONTEXT]
    for index in range(_CONTEXTS.size):
        row[at + index] = context & _CONTEXTS[index] != 0
    at += _CONTEXTS.size
    for bit in range(_NAMES):
        row[at + bit] = NOWHERE
    step = 0
    while step < NOWHERE and owner > 0:
        names = elements[owner, NAMES]
        bit = 0
        while names and bit < _NAMES:
            if names & 1 and row[at + bit] == NOWHERE:
                row[at + bit] = step
            names >>= 1
            bit += 1
        if elements[owner, BLOCK_ELEMENT] == owner:
            step += 1
        owner = elements[owner, PARENT]
    at += _NAMES
    depth = 0
    owner = element
    while owner > 0 and depth < 40:
        depth += 1
        owner = elements[elements[owner, PARENT], BLOCK_ELEMENT]
    row[at], row[at + 1] = depth, _GROUPS[elements[element, TAG]]
    return at + 2


@njit(cache=True, nogil=True)
def measure(
    page: NDArray[np.uint8],
    elements: NDArray[np.int32],
    segments: NDArray[np.int32],
    blocks: NDArray[np.int32],
    title: tuple[int, int],
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.float32], NDArray[np.int32]]:
    """The features of each block: ``[blocks, FEATURES]``, and the counts that they were made from."""
    total = blocks.shape[0]
    counts, words = count(page, elements, segments, blocks, title)
    sums, last, score, top = gather(elements, blocks, counts)
    repeats = _repeats(elements)
    features = np.zeros((total, FEATURES), dtype=np.float32)
    longest = headline = 0
    best = np.float32(0)
    for block in range(total):
        longest = max(longest, counts[block, LENGTH])
        tag = elements[blocks[block, ELEMENT], TAG]
        heading = 0.3 if tag == _H1 else (0.15 if _H1 < tag <= _H3 else 0.0)
        fit = (
            counts[block, OVERLAP] / max(words, 1)
            + heading
            + counts[block, OVERLAP] / max(counts[block, WORD_COUNT], 1)
        )
        if counts[block, WORD_COUNT] <= 40 and fit > best:
            best, headline = np.float32(fit), block
    before = np.float32(0)
    at_headline = np.float32(0)
    for block in range(headline):
        at_headline += counts[block, LENGTH]
    top_up = elements[elements[top, PARENT], BLOCK_ELEMENT]
    for block in range(total):
        row = features[block]
        element = blocks[block, ELEMENT]
        owner = segments[blocks[block, SEGMENT_FROM], OWNER]
        at = _describe(row, 0, counts, block, words)
        at = _place(row, at, elements, element, owner)
        row[at], row[at + 1] = block / total, total - block
        row[at + 2] = before / sums[0, 0]
        row[at + 3], row[at + 4], row[at + 5] = block - headline, before - at_headline, best
        at += 6
        before += counts[block, LENGTH]
        for offset in _AROUND:
            other = block + offset
            if 0 <= other < total:
                row[at], row[at + 1] = counts[other, LENGTH], counts[other, LINKED] / counts[other, LENGTH]
                row[at + 2] = counts[other, STOPS] + counts[other, COMMAS]
                row[at + 3] = _GROUPS[elements[blocks[other, ELEMENT], TAG]]
                row[at + 4] = counts[other, PHRASES] != 0
            else:
                row[at], row[at + 1], row[at + 2], row[at + 3], row[at + 4] = -1, -1, -1, -1, -1
            at += 5
        level = element
        common = 0
        for _ in range(_LEVELS):
            whole = max(sums[level, 0], 1)
            row[at], row[at + 1], row[at + 2] = sums[level, 0], sums[level, 1] / whole, sums[level, 2] / whole
            row[at + 3], row[at + 4] = sums[level, 3], repeats[level]
            row[at + 5] = sums[level, 2] / max(sums[0, 2], 1)
            level = elements[elements[level, PARENT], BLOCK_ELEMENT]
            at += 6
        level = element
        while not (level <= top <= last[level]):
            level = elements[level, PARENT]
            common += 1
        row[at], row[at + 1], row[at + 2] = top <= element <= last[top], top_up <= element <= last[top_up], common
        row[at + 3], row[at + 4] = sums[top, 2] / max(sums[0, 2], 1), sums[top, 0] / max(sums[0, 0], 1)
        row[at + 5] = score[element] / max(score[top], 0.01)
        parent = elements[elements[element, PARENT], BLOCK_ELEMENT]
        row[at + 6] = score[parent] / max(score[top], 0.01)
        row[at + 7], row[at + 8], row[at + 9] = total, sums[0, 0], sums[0, 2]
        row[at + 10], row[at + 11] = longest, counts[block, LENGTH] / max(longest, 1)
        row[at + 12], row[at + 13] = sums[0, 1] / max(sums[0, 0], 1), sums[level, 1] / max(sums[level, 0], 1)
    return features, counts, sums, last
