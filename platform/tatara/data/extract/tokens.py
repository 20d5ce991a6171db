"""Markup to tokens: a tokenizer after HTML's (section 13.2.5 of the standard) that reads each byte once."""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from tatara.data.extract import tags

# A token is a row of five: kind, tag, start, end, and whether the tag closes itself. Text is what is between start and
# end; of a start tag they are its attributes; of raw content (a script's) the content, after the start tag.
TEXT, START, END, RAW_TEXT = 0, 1, 2, 3
_RAW = tags.RAW
_KINDS = tags.KINDS
_KEYS = tags.TAG_KEYS
_NUMBERS = tags.TAG_NUMBERS
_SCRIPT = tags.TAG["script"]


@njit(cache=True, nogil=True)
def is_space(byte: int) -> bool:
    """Whether a byte is white space in HTML."""
    return byte == 32 or (9 <= byte <= 13 and byte != 11)


@njit(cache=True, nogil=True)
def lower(byte: int) -> int:
    """An ASCII letter in lower case, any other byte as it is."""
    return byte + 32 if 65 <= byte <= 90 else byte


@njit(cache=True, nogil=True)
def is_letter(byte: int) -> bool:
    """Whether a byte is an ASCII letter."""
    return 97 <= (byte | 32) <= 122


@njit(cache=True, nogil=True)
def find(keys: NDArray[np.int64], numbers: NDArray[np.int16], value: int) -> int:
    """The number of a hashed name; 0 for one that is not in the table."""
    mask = keys.size - 1
    place = value & mask
    while keys[place] != -1:
        if keys[place] == value:
            return numbers[place]
        place = (place + 1) & mask
    return 0


@njit(cache=True, nogil=True)
def _tag_name(page: NDArray[np.uint8], at: int) -> tuple[int, int]:
    """The tag whose name starts at a place, -1 for an unknown name with a dash, and the place after it."""
    value, dash = 0, False
    size = page.size
    while at < size:
        byte = page[at]
        if is_space(byte) or byte == 47 or byte == 62:
            break
        dash |= byte == 45
        value = (value * 31 + lower(byte)) & 0x7FFFFFFF
        at += 1
    number = find(_KEYS, _NUMBERS, value)
    return (-1 if dash and number == 0 else number), at


@njit(cache=True, nogil=True)
def _tag_end(page: NDArray[np.uint8], at: int) -> int:
    """The place of the ``>`` that ends a tag, past quoted values; the page's size if there is none."""
    size = page.size
    quote = 0
    after_equals = False
    while at < size:
        byte = page[at]
        if quote:
            if byte == quote:
                quote = 0
        elif byte == 62:
            return at
        elif (byte == 34 or byte == 39) and after_equals:
            quote = byte
            after_equals = False
        elif byte == 61:
            after_equals = True
        elif not is_space(byte):
            after_equals = False
        at += 1
    return size


@njit(cache=True, nogil=True)
def _raw_end(page: NDArray[np.uint8], at: int, tag: int) -> int:
    """Where the content of a raw element ends: at its end tag, or with the page."""
    size = page.size
    while at < size - 2:
        if page[at] == 60 and page[at + 1] == 47 and is_letter(page[at + 2]):
            number, _ = _tag_name(page, at + 2)
            if number == tag:
                return at
        at += 1
    return size


@njit(cache=True, nogil=True)
def _comment_end(page: NDArray[np.uint8], at: int, ends: NDArray[np.int64]) -> int:
    """The place after a comment, a declaration or a processing instruction that starts with the ``<`` at a place."""
    size = page.size
    if page[at + 1] == 33 and at + 3 < size and page[at + 2] == 45 and page[at + 3] == 45:
        if at + 4 < size and page[at + 4] == 62:
            return at + 5
        if ends[0] <= at:  # looked for once: a page full of comments that never end stays linear
            ends[0] = size
            for place in range(at + 4, size - 2):
                if page[place] == 45 and page[place + 1] == 45 and (page[place + 2] == 62 or page[place + 2] == 33):
                    ends[0] = place
                    break
        if ends[0] < size:
            return ends[0] + 3
        # A comment without an end: take it for text that ends with the tag, not for the rest of the page.
    while at < size and page[at] != 62:
        at += 1
    return min(at + 1, size)


@njit(cache=True, nogil=True)
def tokenize(page: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Split a page into tokens.

    Args:
        page: Bytes in UTF-8: ``[bytes]``.

    Returns:
        ``[tokens, 5]``, as described above; comments and declarations are left out.
    """
    size = page.size
    count = 1
    for at in range(size):
        count += page[at] == 60
    tokens = np.empty((2 * count + 1, 5), dtype=np.int32)
    ends = np.full(1, -1, dtype=np.int64)
    written = at = text = 0
    while at <= size:
        inside = at < size - 1 and page[at] == 60
        if at < size and not inside:
            at += 1
            continue
        following = page[at + 1] if inside else 0
        if inside and not (is_letter(following) or following == 47 or following == 33 or following == 63):
            at += 1
            continue
        if at > text:
            _put(tokens, written, TEXT, 0, text, at, 0)
            written += 1
        if not inside:
            break
        if is_letter(following) or (following == 47 and at + 2 < size and is_letter(page[at + 2])):
            closing = following == 47
            tag, name_end = _tag_name(page, at + 1 + closing)
            end = _tag_end(page, name_end)
            alone = end > name_end and end <= size and page[end - 1] == 47
            _put(tokens, written, END if closing else START, tag, name_end, end, alone)
            written += 1
            at = min(end + 1, size)
            if not closing and tag > 0 and _KINDS[tag] & _RAW and not alone:
                end = _raw_end(page, at, tag)
                _put(tokens, written, RAW_TEXT, tag, at, end, 0)
                written += 1
                at = end
        else:
            at = _comment_end(page, at, ends)
        text = at
        if at == size:
            break
    return tokens[:written]


@njit(cache=True, nogil=True)
def _put(tokens: NDArray[np.int32], at: int, kind: int, tag: int, start: int, end: int, alone: int) -> None:
    tokens[at, 0], tokens[at, 1], tokens[at, 2], tokens[at, 3], tokens[at, 4] = kind, tag, start, end, alone
