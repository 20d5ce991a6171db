"""Which elements are open: start tags that end others, and end tags that fit none."""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from tatara.data.extract import tags
from tatara.data.extract.segments import add_segment, cross_boundary, end_block
from tatara.data.extract.structure import BLOCK_ELEMENT, BREAK, DEPTH, OVERFLOW, SCAN, TAG

_T = tags.TAG
_KINDS = tags.KINDS
_BLOCK, _VOID, _SKIPPED, _ROOT = tags.BLOCK, tags.VOID, tags.SKIPPED, tags.ROOT
_TABLE_PART, _BARRIER = tags.TABLE_PART, tags.BARRIER
_P, _LI, _DT, _DD, _TR, _TD, _TH = (_T[name] for name in ("p", "li", "dt", "dd", "tr", "td", "th"))
_A, _BR, _HR, _H1, _H6, _DIV = (_T[name] for name in ("a", "br", "hr", "h1", "h6", "div"))
_TABLE, _TBODY, _THEAD, _TFOOT = (_T[name] for name in ("table", "tbody", "thead", "tfoot"))
_OPTION = _T["option"]


@njit(cache=True, nogil=True)
def close_to(
    depth: int,
    elements: NDArray[np.int32],
    stack: NDArray[np.int32],
    opened: NDArray[np.int32],
    state: NDArray[np.int64],
) -> None:
    """Close open elements until only so many are left."""
    while state[DEPTH] > depth:
        state[DEPTH] -= 1
        opened[elements[stack[state[DEPTH]], TAG]] -= 1


@njit(cache=True, nogil=True)
def find_open(
    tag: int, other: int, elements: NDArray[np.int32], stack: NDArray[np.int32], state: NDArray[np.int64], inline: bool
) -> int:
    """Depth of the innermost open element of a tag (or of the other) in scope; 0 if there is none."""
    depth = state[DEPTH] - 1
    bound = max(0, depth - SCAN) if inline else 0
    while depth > bound:
        found = elements[stack[depth], TAG]
        if found in (tag, other):
            return depth
        kinds = _KINDS[found]
        if inline and kinds & _BLOCK and found != _P:
            return 0
        if kinds & _BARRIER and not (tag == _TABLE or (_KINDS[tag] & _TABLE_PART and found != _TABLE)):
            return 0
        depth -= 1
    return 0


@njit(cache=True, nogil=True)
def find_cell(
    tag: int, other: int, elements: NDArray[np.int32], stack: NDArray[np.int32], state: NDArray[np.int64]
) -> int:
    """Depth of an open part of the innermost table; 0 if there is none."""
    depth = state[DEPTH] - 1
    while depth > 0:
        found = elements[stack[depth], TAG]
        if found in (tag, other):
            return depth
        if found == _TABLE:
            return 0
        depth -= 1
    return 0


@njit(cache=True, nogil=True)
def end_element(
    tag: int,
    elements: NDArray[np.int32],
    segments: NDArray[np.int32],
    blocks: NDArray[np.int32],
    stack: NDArray[np.int32],
    opened: NDArray[np.int32],
    state: NDArray[np.int64],
) -> None:
    """Take an end tag."""
    if tag < 0:
        tag = 0
    if tag in (_BR, _HR):
        add_segment(segments, state, BREAK, 0, 0, stack[state[DEPTH] - 1])
        return
    if _KINDS[tag] & (_ROOT | _VOID):
        return
    if state[OVERFLOW]:
        state[OVERFLOW] -= 1
    elif opened[tag]:
        other = tag
        if _H1 <= tag <= _H6:
            other = elements[stack[state[DEPTH] - 1], TAG]
            other = other if _H1 <= other <= _H6 else tag
        depth = find_open(tag, other, elements, stack, state, not _KINDS[tag] & (_BLOCK | _SKIPPED))
        if depth:
            before = elements[stack[state[DEPTH] - 1], BLOCK_ELEMENT]
            cross_boundary(tag, elements, segments, blocks, stack, state)
            close_to(depth, elements, stack, opened, state)
            if elements[stack[state[DEPTH] - 1], BLOCK_ELEMENT] != before and not _KINDS[tag] & _BLOCK:
                end_block(segments, blocks, elements, state)
            return
    if _KINDS[tag] & _BLOCK:
        cross_boundary(tag, elements, segments, blocks, stack, state)


@njit(cache=True, nogil=True)
def close_implied(
    tag: int,
    elements: NDArray[np.int32],
    segments: NDArray[np.int32],
    blocks: NDArray[np.int32],
    stack: NDArray[np.int32],
    opened: NDArray[np.int32],
    state: NDArray[np.int64],
) -> None:
    """End the elements whose end tags authors may leave out (section 13.1.2.4 of the standard)."""
    depth = 0
    if opened[_P] and _KINDS[tag] & _BLOCK:
        depth = find_open(_P, _P, elements, stack, state, True)
    if tag == _LI and opened[_LI]:
        place = state[DEPTH] - 1
        while place > 0:
            found = elements[stack[place], TAG]
            if found == _LI:
                depth = place
            if found == _LI or (_KINDS[found] & _BLOCK and found != _DIV and found != _P):
                break
            place -= 1
    elif (tag in (_DT, _DD)) and opened[_DT] + opened[_DD]:
        depth = max(depth, find_open(_DT, _DD, elements, stack, state, False))
    elif tag in (_TD, _TH):
        depth = find_cell(_TD, _TH, elements, stack, state)
    elif tag == _TR:
        depth = find_cell(_TR, _TR, elements, stack, state)
    elif tag in (_TBODY, _THEAD, _TFOOT):
        depth = find_cell(_TBODY, _THEAD, elements, stack, state)
    elif _H1 <= tag <= _H6:
        found = elements[stack[state[DEPTH] - 1], TAG]
        if _H1 <= found <= _H6:
            depth = state[DEPTH] - 1
    elif tag == _OPTION:
        if elements[stack[state[DEPTH] - 1], TAG] == _OPTION:
            depth = state[DEPTH] - 1
    elif tag == _A and opened[_A]:
        depth = find_open(_A, _A, elements, stack, state, True)
    if depth:
        cross_boundary(elements[stack[depth], TAG], elements, segments, blocks, stack, state)
        close_to(depth, elements, stack, opened, state)
