"""Text, formulas and line breaks on their way into blocks."""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from tatara.data.extract import tags
from tatara.data.extract.attributes import ALT_END, ALT_START, DISPLAY_BLOCK, IS_TEX
from tatara.data.extract.structure import (
    BLOCK_ELEMENT,
    BLOCKS,
    BREAK,
    BREAKS,
    CONTEXT,
    DEPTH,
    DISPLAY_MATH,
    ELEMENT,
    FILLED,
    FIRST,
    FROM,
    IN_MATH,
    IN_PRE,
    IN_TEX,
    KIND,
    MATH,
    MATH_AT,
    MATH_SEGMENT,
    OPEN_FROM,
    OWNER,
    RAW_DISPLAY_MATH,
    RAW_MATH,
    SEGMENT_FROM,
    SEGMENT_TO,
    SEGMENTS,
    SKIP,
    TITLE_FROM,
    TITLE_TO,
    TO,
    VERBATIM,
    WORDS,
)
from tatara.data.extract.tokens import is_space

_T = tags.TAG
_KINDS = tags.KINDS
_PRE, _TITLE, _SCRIPT = _T["pre"], _T["title"], _T["script"]
_BLOCK = tags.BLOCK
_NBSP, _N160 = np.frombuffer(b"nbsp;", dtype=np.uint8), np.frombuffer(b"#160;", dtype=np.uint8)


@njit(cache=True, nogil=True)
def add_segment(
    segments: NDArray[np.int32], state: NDArray[np.int64], kind: int, start: int, end: int, owner: int
) -> None:
    """Append a segment."""
    at = state[SEGMENTS]
    segments[at, KIND], segments[at, FROM], segments[at, TO], segments[at, OWNER] = kind, start, end, owner
    state[SEGMENTS] += 1


@njit(cache=True, nogil=True)
def end_block(
    segments: NDArray[np.int32], blocks: NDArray[np.int32], elements: NDArray[np.int32], state: NDArray[np.int64]
) -> None:
    """End the block, if there is any text in it; its element is the innermost one of its first text."""
    if state[FILLED]:
        at = state[BLOCKS]
        first = state[OPEN_FROM]
        while segments[first, KIND] == BREAK:
            first += 1
        blocks[at, ELEMENT] = elements[segments[state[FILLED] - 1, OWNER], BLOCK_ELEMENT]
        blocks[at, SEGMENT_FROM], blocks[at, SEGMENT_TO] = first, state[SEGMENTS]
        state[BLOCKS] += 1
    else:
        state[SEGMENTS] = state[OPEN_FROM]
    state[OPEN_FROM] = state[SEGMENTS]
    state[FILLED] = state[BREAKS] = 0


@njit(cache=True, nogil=True)
def _is_entity(page: NDArray[np.uint8], at: int, name: NDArray[np.uint8]) -> bool:
    for offset in range(name.size):
        if page[at + offset] != name[offset]:
            return False
    return at + name.size <= page.size


@njit(cache=True, nogil=True)
def is_blank(page: NDArray[np.uint8], start: int, end: int) -> bool:
    """Whether text is nothing but white space; no-break spaces, which hold empty paragraphs open, count as such."""
    at = start
    while at < end:
        byte = page[at]
        if is_space(byte):
            at += 1
        elif byte == 0xC2 and at + 1 < end and page[at + 1] == 0xA0:
            at += 2
        elif (byte == 38 and at + 5 < end and _is_entity(page, at + 1, _NBSP)) or (
            byte == 38 and at + 5 < end and _is_entity(page, at + 1, _N160)
        ):
            at += 6
        else:
            return False
    return True


@njit(cache=True, nogil=True)
def add_formula(
    slots: NDArray[np.int64], kind: int, owner: int, segments: NDArray[np.int32], state: NDArray[np.int64]
) -> None:
    """Append a formula whose source is an attribute."""
    add_segment(segments, state, kind, slots[ALT_START], slots[ALT_END], owner)
    if not state[FILLED]:
        state[FILLED] = state[SEGMENTS]


@njit(cache=True, nogil=True)
def add_text(
    page: NDArray[np.uint8],
    start: int,
    end: int,
    elements: NDArray[np.int32],
    segments: NDArray[np.int32],
    stack: NDArray[np.int32],
    state: NDArray[np.int64],
) -> None:
    """Append text, unless it is to be skipped, or is white space between blocks."""
    owner = stack[state[DEPTH] - 1]
    context = elements[owner, CONTEXT]
    if context & SKIP:
        return
    blank = is_blank(page, start, end)
    if context & IN_MATH:
        if context & IN_TEX and not blank:
            # The source of the formula takes the place of what is laid out.
            state[SEGMENTS] = state[MATH_SEGMENT]
            display = elements[state[MATH_AT], FIRST]
            add_segment(segments, state, DISPLAY_MATH if display else MATH, start, end, owner)
            state[FILLED] = state[SEGMENTS]
            return
        if blank:
            return
    if context & IN_PRE:
        add_segment(segments, state, VERBATIM, start, end, owner)
    elif blank and not state[FILLED]:
        return
    else:
        add_segment(segments, state, WORDS, start, end, owner)
    if not blank:
        if not state[FILLED]:
            state[FILLED] = state[SEGMENTS]
        state[BREAKS] = 0


@njit(cache=True, nogil=True)
def add_raw(
    page: NDArray[np.uint8],
    start: int,
    end: int,
    tag: int,
    elements: NDArray[np.int32],
    segments: NDArray[np.int32],
    stack: NDArray[np.int32],
    state: NDArray[np.int64],
    slots: NDArray[np.int64],
) -> None:
    """Content that is no markup: only a title, and a script that is a formula, matter."""
    owner = stack[state[DEPTH] - 1]
    skipped = elements[owner, CONTEXT] & SKIP
    if tag == _TITLE and not skipped and state[TITLE_TO] == 0:
        state[TITLE_FROM], state[TITLE_TO] = start, end
    elif tag == _SCRIPT and slots[IS_TEX] and not skipped:
        add_segment(segments, state, RAW_DISPLAY_MATH if slots[DISPLAY_BLOCK] else RAW_MATH, start, end, owner)
        if not state[FILLED]:
            state[FILLED] = state[SEGMENTS]


@njit(cache=True, nogil=True)
def add_break(
    elements: NDArray[np.int32],
    segments: NDArray[np.int32],
    blocks: NDArray[np.int32],
    stack: NDArray[np.int32],
    state: NDArray[np.int64],
) -> None:
    """A line break; two of them end a paragraph."""
    owner = stack[state[DEPTH] - 1]
    context = elements[owner, CONTEXT]
    if context & SKIP:
        return
    if context & IN_PRE or state[FILLED]:
        state[BREAKS] += 1
        if state[BREAKS] > 1 and not context & IN_PRE:
            end_block(segments, blocks, elements, state)
        else:
            add_segment(segments, state, BREAK, 0, 0, owner)


@njit(cache=True, nogil=True)
def cross_boundary(
    tag: int,
    elements: NDArray[np.int32],
    segments: NDArray[np.int32],
    blocks: NDArray[np.int32],
    stack: NDArray[np.int32],
    state: NDArray[np.int64],
) -> None:
    """A block starts or ends here; inside preformatted text that is a new line."""
    if not _KINDS[tag] & _BLOCK:
        return
    owner = stack[state[DEPTH] - 1]
    context = elements[owner, CONTEXT]
    if context & SKIP:
        return
    if context & IN_PRE and tag != _PRE:
        last = state[SEGMENTS] - 1
        if last >= state[OPEN_FROM] and segments[last, KIND] != BREAK:
            add_segment(segments, state, BREAK, 0, 0, owner)
        return
    end_block(segments, blocks, elements, state)
