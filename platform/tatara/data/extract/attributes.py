"""A start tag's attributes: what it is named, whether it is hidden, where it links to, which formula it holds."""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from tatara.data.extract import lexicon, tags
from tatara.data.extract.tokens import find, is_space, lower

# What is read of the attributes: a slot each.
NAMED, HIDDEN, ALT_START, ALT_END, HREF_START, HREF_END, CLASS_HASH, IS_TEX, DISPLAY_BLOCK, START_NUMBER = range(10)
SLOTS = 10

_KEYS, _NUMBERS = tags.ATTRIBUTE_KEYS, tags.ATTRIBUTE_NUMBERS
(
    _CLASS,
    _ID,
    _ROLE,
    _ITEMPROP,
    _STYLE,
    _HIDDEN,
    _ARIA_HIDDEN,
    _TYPE,
    _ENCODING,
    _ALT,
    _ALTTEXT,
    _HREF,
    _DISPLAY,
    _START,
) = (
    tags.ATTRIBUTE[name]
    for name in (
        "class",
        "id",
        "role",
        "itemprop",
        "style",
        "hidden",
        "aria-hidden",
        "type",
        "encoding",
        "alt",
        "alttext",
        "href",
        "display",
        "start",
    )
)
_TESTID, _COMPONENT = tags.ATTRIBUTE["data-testid"], tags.ATTRIBUTE["data-component"]
_SYMBOLS, _NEXT, _HITS = lexicon.NAME_SYMBOLS, lexicon.NAME_NEXT, lexicon.NAME_HITS
_NONE = np.frombuffer(b"display:none", dtype=np.uint8)
_INVISIBLE = np.frombuffer(b"visibility:hidden", dtype=np.uint8)
_TEX = np.frombuffer(b"tex", dtype=np.uint8)
_BLOCK = np.frombuffer(b"block", dtype=np.uint8)
_DISPLAY_MODE = np.frombuffer(b"mode=display", dtype=np.uint8)


@njit(cache=True, nogil=True)
def _holds(page: NDArray[np.uint8], start: int, end: int, wanted: NDArray[np.uint8]) -> bool:
    """Whether a value holds some bytes, white space and case aside; none of them may recur in their own beginning."""
    matched = 0
    for at in range(start, end):
        byte = lower(page[at])
        if is_space(byte):
            continue
        if byte != wanted[matched]:
            matched = 0
        if byte == wanted[matched]:
            matched += 1
            if matched == wanted.size:
                return True
    return False


@njit(cache=True, nogil=True)
def _words(page: NDArray[np.uint8], start: int, end: int) -> int:
    """The bits of the words in a name."""
    state = _NEXT[0, 0]
    found = 0
    for at in range(start, end):
        state = _NEXT[state, _SYMBOLS[page[at]]]
        found |= _HITS[state]
    return found | _HITS[_NEXT[state, 0]]


@njit(cache=True, nogil=True)
def read_attributes(page: NDArray[np.uint8], start: int, end: int, slots: NDArray[np.int64]) -> None:
    """Read the attributes between two places into slots."""
    slots[:] = 0
    at = start
    while at < end:
        while at < end and (is_space(page[at]) or page[at] == 47):
            at += 1
        value = 0
        while at < end and not is_space(page[at]) and page[at] != 61 and page[at] != 47:
            value = (value * 31 + lower(page[at])) & 0x7FFFFFFF
            at += 1
        while at < end and is_space(page[at]):
            at += 1
        first = last = at
        if at < end and page[at] == 61:
            at += 1
            while at < end and is_space(page[at]):
                at += 1
            if at < end and (page[at] == 34 or page[at] == 39):
                quote = page[at]
                first = at + 1
                at = first
                while at < end and page[at] != quote:
                    at += 1
                last = at
                at += 1
            else:
                first = at
                while at < end and not is_space(page[at]):
                    at += 1
                last = at
        number = find(_KEYS, _NUMBERS, value)
        if number:
            _take(page, number, first, last, slots)


@njit(cache=True, nogil=True)
def _take(page: NDArray[np.uint8], number: int, first: int, last: int, slots: NDArray[np.int64]) -> None:
    if number in (_CLASS, _ID, _ROLE, _ITEMPROP) or number >= _TESTID:
        slots[NAMED] |= _words(page, first, last)
        if number == _CLASS:
            value = 7
            for at in range(first, last):
                value = (value * 31 + page[at]) & 0x3FFFFFFF
            slots[CLASS_HASH] = value
    elif number == _STYLE:
        if last - first > 10 and (_holds(page, first, last, _NONE) or _holds(page, first, last, _INVISIBLE)):
            slots[HIDDEN] = 1
    elif number == _HIDDEN:
        slots[HIDDEN] = 1
    elif number == _TYPE:
        if _holds(page, first, last, _TEX) and page[first] | 32 == 109:  # math/tex, not text/javascript
            slots[IS_TEX] = 1
            slots[DISPLAY_BLOCK] = _holds(page, first, last, _DISPLAY_MODE)
    elif number == _ENCODING:
        slots[IS_TEX] = _holds(page, first, last, _TEX)
    elif number in (_ALT, _ALTTEXT):
        if last > first:
            slots[ALT_START], slots[ALT_END] = first, last
    elif number == _HREF:
        slots[HREF_START], slots[HREF_END] = first, last
    elif number == _DISPLAY:
        slots[DISPLAY_BLOCK] = _holds(page, first, last, _BLOCK)
    elif number == _START:
        value = 0
        for at in range(first, min(last, first + 6)):
            if 48 <= page[at] <= 57:
                value = 10 * value + page[at] - 48
        slots[START_NUMBER] = value
