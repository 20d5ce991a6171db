"""Blocks that were chosen to text: paragraphs, lists, tables, code, formulas."""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from tatara.data.extract import tags
from tatara.data.extract.structure import (
    BREAK,
    CONTEXT,
    DISPLAY_MATH,
    ELEMENT,
    FROM,
    HREF,
    HREF_STOP,
    IN_PRE,
    KIND,
    LINK,
    MATH,
    OWNER,
    PARENT,
    RAW_DISPLAY_MATH,
    RAW_MATH,
    SEGMENT_FROM,
    SEGMENT_TO,
    TAG,
    TO,
    VERBATIM,
)
from tatara.data.extract.tokens import is_space

CODE, FORMULAS, LISTS, HEADINGS, LINKS = 1, 2, 4, 8, 16
"""What to mark: bits of the options."""
_T = tags.TAG
_OL, _TD, _TH, _H1, _H6 = (_T[name] for name in ("ol", "td", "th", "h1", "h6"))
_PER_BLOCK = 96
_FENCE = np.frombuffer(b"```", dtype=np.uint8)
_AMP = np.frombuffer(b"&amp;", dtype=np.uint8)
_STYLE = np.frombuffer(b"\\displaystyle", dtype=np.uint8)


@njit(cache=True, nogil=True)
def _bytes(out: NDArray[np.uint8], at: int, text: NDArray[np.uint8]) -> int:
    for index in range(text.size):
        out[at + index] = text[index]
    return at + text.size


@njit(cache=True, nogil=True)
def _number(out: NDArray[np.uint8], at: int, value: int) -> int:
    digits = 1
    while 10**digits <= value:
        digits += 1
    for place in range(digits - 1, -1, -1):
        out[at + place] = 48 + value % 10
        value //= 10
    return at + digits


@njit(cache=True, nogil=True)
def _words(page: NDArray[np.uint8], start: int, end: int, out: NDArray[np.uint8], at: int) -> int:
    """Copy text with white space collapsed; a space is dropped at the start of a line."""
    for place in range(start, end):
        byte = page[place]
        if is_space(byte):
            if at > 0 and out[at - 1] != 32 and out[at - 1] != 10:
                out[at] = 32
                at += 1
        elif byte:
            out[at] = byte
            at += 1
    return at


@njit(cache=True, nogil=True)
def _verbatim(page: NDArray[np.uint8], start: int, end: int, out: NDArray[np.uint8], at: int) -> int:
    for place in range(start, end):
        byte = page[place]
        if byte == 13:
            if place + 1 < end and page[place + 1] == 10:
                continue
            byte = np.uint8(10)
        if byte:
            out[at] = byte
            at += 1
    return at


@njit(cache=True, nogil=True)
def _formula(page: NDArray[np.uint8], start: int, end: int, kind: int, out: NDArray[np.uint8], at: int) -> int:
    """A formula between one or two dollar signs, without those and without the display style it came with."""
    while start < end and (is_space(page[start]) or page[start] == 36):
        start += 1
    while end > start and (is_space(page[end - 1]) or page[end - 1] == 36):
        end -= 1
    if end - start > _STYLE.size + 2 and page[start] == 123 and page[end - 1] == 125:
        match = 0
        while match < _STYLE.size and page[start + 1 + match] == _STYLE[match]:
            match += 1
        if match == _STYLE.size:
            start += match + 1
            end -= 1
            while start < end and is_space(page[start]):
                start += 1
            while end > start and is_space(page[end - 1]):
                end -= 1
    signs = 2 if kind in (DISPLAY_MATH, RAW_DISPLAY_MATH) else 1
    for _ in range(signs):
        out[at] = 36
        at += 1
    for place in range(start, end):
        if page[place] == 38 and kind >= RAW_MATH:
            at = _bytes(out, at, _AMP)  # a script holds no entities; this one is undone with all others
        else:
            out[at] = page[place]
            at += 1
    for _ in range(signs):
        out[at] = 36
        at += 1
    return at


@njit(cache=True, nogil=True)
def _trim(out: NDArray[np.uint8], at: int, floor: int) -> int:
    while at > floor and is_space(out[at - 1]):
        at -= 1
    return at


@njit(cache=True, nogil=True)
def _close_link(
    page: NDArray[np.uint8], elements: NDArray[np.int32], link: int, out: NDArray[np.uint8], at: int
) -> int:
    if link > 0 and elements[link, HREF_STOP] > 0:
        space = at > 0 and out[at - 1] == 32
        at -= space
        out[at], out[at + 1] = 93, 40
        at += 2
        for place in range(elements[link, HREF], elements[link, HREF_STOP]):
            if page[place] > 32:
                out[at] = page[place]
                at += 1
        out[at] = 41
        at += 1
        if space:
            out[at] = 32
            at += 1
    return at


@njit(cache=True, nogil=True)
def _content(
    page: NDArray[np.uint8],
    elements: NDArray[np.int32],
    segments: NDArray[np.int32],
    first: int,
    last: int,
    options: int,
    fenced: bool,
    out: NDArray[np.uint8],
    at: int,
) -> int:
    """The text of a block."""
    begin = at
    link = np.int32(-1)
    for index in range(first, last):
        kind, start, end, owner = (
            segments[index, KIND],
            segments[index, FROM],
            segments[index, TO],
            segments[index, OWNER],
        )
        if options & LINKS and elements[owner, LINK] != link and not fenced:
            at = _close_link(page, elements, link, out, at)
            link = elements[owner, LINK]
            if link > 0 and elements[link, HREF_STOP] > 0:
                out[at] = 91
                at += 1
        if kind == BREAK:
            at = at if fenced else _trim(out, at, begin)
            if at > begin or fenced:
                out[at] = 10
                at += 1
        elif kind == VERBATIM and fenced:
            if at == begin:  # the line break after the start tag is not part of the text
                start += start < end and page[start] == 13
                start += start < end and page[start] == 10
            at = _verbatim(page, start, end, out, at)
        elif kind in (MATH, DISPLAY_MATH, RAW_MATH, RAW_DISPLAY_MATH):
            if options & FORMULAS:
                at = _formula(page, start, end, kind, out, at)
        else:
            at = _words(page, start, end, out, at)
    if options & LINKS:
        at = _close_link(page, elements, link, out, at)
    return _trim(out, at, begin)


@njit(cache=True, nogil=True)
def _capacity(
    elements: NDArray[np.int32],
    segments: NDArray[np.int32],
    blocks: NDArray[np.int32],
    keep: NDArray[np.bool_],
    options: int,
) -> int:
    size = 64
    for block in range(blocks.shape[0]):
        if keep[block]:
            size += _PER_BLOCK
            for index in range(blocks[block, SEGMENT_FROM], blocks[block, SEGMENT_TO]):
                length = segments[index, TO] - segments[index, FROM]
                size += (5 * length if segments[index, KIND] >= RAW_MATH else length) + 8
                link = elements[segments[index, OWNER], LINK]
                if options & LINKS and link > 0:
                    size += elements[link, HREF_STOP] - elements[link, HREF] + 8
    return size


@njit(cache=True, nogil=True)
def _separate(
    elements: NDArray[np.int32],
    frames: NDArray[np.int32],
    tables: NDArray[np.int32],
    blocks: NDArray[np.int32],
    last: int,
    block: int,
    out: NDArray[np.uint8],
    at: int,
) -> int:
    """What stands between two blocks: a bar between cells, a new line between rows and items, else a blank line."""
    before, after = blocks[last, ELEMENT], blocks[block, ELEMENT]
    if tables[block] and tables[block] == tables[last]:
        if frames[before, 1] == frames[after, 1]:
            out[at] = 32
            return at + 1
        bars = 0
        row = frames[after, 2]
        start = frames[before, 1] + 1 if frames[before, 2] == row else row + 1
        for cell in range(start, frames[after, 1] + 1):
            bars += (elements[cell, TAG] == _TD or elements[cell, TAG] == _TH) and frames[cell, 2] == row
        if frames[before, 2] != row:
            out[at] = 10
            at += 1
            bars -= 1
        for _ in range(min(bars, 16)):
            out[at], out[at + 1], out[at + 2] = 32, 124, 32
            at += 3
        return at
    out[at] = 10
    if frames[before, 0] and frames[after, 0] and frames[after, 0] != frames[before, 0]:
        return at + 1
    out[at + 1] = 10
    return at + 2


@njit(cache=True, nogil=True)
def render(
    page: NDArray[np.uint8],
    elements: NDArray[np.int32],
    segments: NDArray[np.int32],
    blocks: NDArray[np.int32],
    keep: NDArray[np.bool_],
    frames: NDArray[np.int32],
    tables: NDArray[np.int32],
    options: int,
) -> NDArray[np.uint8]:
    """Write the kept blocks: bytes in UTF-8, with the page's entities."""
    out = np.empty(_capacity(elements, segments, blocks, keep, options), dtype=np.uint8)
    at = 0
    last = item = -1
    for block in range(blocks.shape[0]):
        if not keep[block]:
            continue
        element, first = blocks[block, ELEMENT], blocks[block, SEGMENT_FROM]
        fenced = options & CODE and elements[segments[first, OWNER], CONTEXT] & IN_PRE != 0 and not tables[block]
        begin = at
        if last >= 0:
            at = _separate(elements, frames, tables, blocks, last, block, out, at)
        floor = at
        if options & LISTS and frames[element, 0] and frames[element, 0] != item and not fenced:
            item = frames[element, 0]
            for _ in range(2 * min(frames[item, 4] - 1, 6)):
                out[at] = 32
                at += 1
            if elements[elements[item, PARENT], TAG] == _OL:
                at = _number(out, at, frames[item, 3])
                out[at], out[at + 1] = 46, 32
            else:
                out[at], out[at + 1] = 45, 32
            at += 2
        tag = elements[element, TAG]
        if options & HEADINGS and _H1 <= tag <= _H6:
            for _ in range(tag - _H1 + 1):
                out[at] = 35
                at += 1
            out[at] = 32
            at += 1
        if fenced:
            at = _bytes(out, at, _FENCE)
            out[at] = 10
            at += 1
        start = at
        at = _content(page, elements, segments, first, blocks[block, SEGMENT_TO], options, fenced, out, at)
        if at == start:
            at = begin if floor >= begin else at
            continue
        if fenced:
            out[at] = 10
            at = _bytes(out, at + 1, _FENCE)
        last = block
    return out[:at]
