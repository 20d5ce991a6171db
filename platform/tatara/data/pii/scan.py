"""One pass over a text for the places where personal information may be; all others are never looked at again."""

import string

import numba
import numpy as np
from numpy.typing import NDArray

AT, NUMBER, TOKEN, COLONS, DASHES, IBAN = range(6)
"""What a candidate may be: e-mail, groups of digits, a long token, IPv6, a key block, an IBAN's head."""

_DIGIT, _UPPER, _LOWER, _HEX, _JOIN, _SLASH, _SEPARATOR = (1 << bit for bit in range(7))
_WORD = _DIGIT | _UPPER | _LOWER
_TOKEN = _WORD | _JOIN | _SLASH
_MIN_DIGITS, _MAX_DIGITS, _MAX_GAP = 7, 19, 3
_MIN_TOKEN, _MIN_LETTERS, _MIN_PATH = 16, 32, 32
_OTHER = 0x7F


def _classes() -> NDArray[np.uint8]:
    table = np.zeros(256, np.uint8)
    for bit, characters in (
        (_DIGIT, string.digits),
        (_UPPER, string.ascii_uppercase),
        (_LOWER, string.ascii_lowercase),
        (_HEX, string.hexdigits),
        (_JOIN, "_-"),
        (_SLASH, "/+"),
        (_SEPARATOR, " -.()/"),
    ):
        for character in characters:
            table[ord(character)] |= bit
    return table


def _plain() -> NDArray[np.uint8]:
    """Code points below 2**16 to the ASCII character that stands for them; letters of Europe are all ``e``."""
    table = np.full(1 << 16, _OTHER, np.uint8)
    table[:128] = np.arange(128)
    for code in range(0xC0, 0x530):
        if chr(code).isalpha():
            table[code] = ord("e")
    for code in range(0xFF01, 0xFF5F):
        table[code] = code - 0xFEE0
    for dash in "\u00ad\u2010\u2011\u2012\u2013\u2014\u2015\u2212\u30fc\uff0d\ufe63":
        table[ord(dash)] = ord("-")
    for space in "\u00a0\u2002\u2003\u2007\u2009\u202f\u3000":
        table[ord(space)] = ord(" ")
    return table


_CLASSES = _classes()
_PLAIN = _plain()


def plain(text: str) -> str:
    """The text in ASCII, character for character: full-width forms, dashes and spaces become their plain likes."""
    if text.isascii():
        return text
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    return _PLAIN[np.minimum(codes, 0xFFFF)].tobytes().decode("ascii")


def candidates(text: str) -> list[list[int]]:
    """Where to look closer.

    Args:
        text: ASCII, as `plain` returns it.

    Returns:
        (what it may be, start, end), in no order.
    """
    codes = np.frombuffer(text.encode("ascii"), np.uint8)
    capacity = 64 + codes.size // 512
    while True:
        out = np.empty((capacity, 3), np.int64)
        found = _scan(codes, _CLASSES, out)
        if found <= capacity:
            return out[:found].tolist()
        capacity = found


@numba.njit(cache=True, nogil=True, inline="always")
def _put(out, count, what, start, end):  # type: ignore[no-untyped-def]
    if count < out.shape[0]:
        out[count, 0] = what
        out[count, 1] = start
        out[count, 2] = end


@numba.njit(cache=True, nogil=True)
def _tokens(codes, classes, out):  # type: ignore[no-untyped-def]
    """Long tokens of letters, digits and joining marks; heads of key blocks."""
    count = 0
    start = 0
    size = codes.size
    while start < size:
        seen = classes[codes[start]]
        if not seen & _TOKEN:
            start += 1
            continue
        end = start + 1
        while end < size and classes[codes[end]] & _TOKEN:
            seen |= classes[codes[end]]
            end += 1
        length = end - start
        if length >= _MIN_TOKEN:
            mixed = seen & _DIGIT and seen & _UPPER and seen & _LOWER
            if seen & _SLASH:
                wanted = (length >= _MIN_PATH and mixed) or (seen & _JOIN and seen & _DIGIT)
            else:
                wanted = (length >= _MIN_LETTERS or seen & _DIGIT) and seen & _WORD
            if wanted:
                _put(out, count, TOKEN, start, end)
                count += 1
        # Ends with "-BEGIN", as the first word of a key block does; what stands before may be an escaped line feed.
        if length >= 10 and codes[end - 6] == 45 and codes[end - 5] == 66 and codes[end - 1] == 78:
            _put(out, count, DASHES, end - 10, end)
            count += 1
        start = end
    return count


@numba.njit(cache=True, nogil=True)
def _colons(codes, classes, place):  # type: ignore[no-untyped-def]
    """The run of colons and hexadecimal digits around a colon, and whether it may be an IPv6 address."""
    left, right, colons, double = place, place, 0, False
    while left > 0 and place - left < 5 and classes[codes[left - 1]] & _HEX:
        left -= 1
    while right < codes.size and (codes[right] == 58 or classes[codes[right]] & _HEX):
        if codes[right] == 58:
            colons += 1
            double = double or (right + 1 < codes.size and codes[right + 1] == 58)
        right += 1
    return left, right, (colons >= 3 or double) and colons <= 8 and 6 <= right - left <= 39


@numba.njit(cache=True, nogil=True)
def _marks(codes, classes, out, count):  # type: ignore[no-untyped-def]
    """Groups of digits, heads of IBANs, ``@`` inside of words, and colons between hexadecimal digits."""
    size = codes.size
    first, last, digits, dots = -1, -1, 0, 0
    place = 0
    while place < size:
        code = codes[place]
        if classes[code] & _DIGIT:
            end = place + 1
            while end < size and classes[codes[end]] & _DIGIT:
                end += 1
            near = first >= 0 and place - last <= _MAX_GAP
            if near:
                for gap in range(last, place):
                    near = near and classes[codes[gap]] & _SEPARATOR != 0
            lettered = (place > 0 and classes[codes[place - 1]] & (_UPPER | _LOWER)) or (
                end < size
                and classes[codes[end]] & (_UPPER | _LOWER)
                and codes[end] != 120  # x, as in x123, an extension
            )
            if not near or lettered or end - place > _MAX_DIGITS:
                if first >= 0 and (digits >= _MIN_DIGITS or dots >= 3):
                    _put(out, count, NUMBER, first, last)
                    count += 1
                first, digits, dots = -1, 0, 0
            elif place - last == 1 and codes[last] == 46:
                dots += 1
            if (
                end - place >= 2
                and place >= 2
                and classes[codes[place - 1]] & _UPPER
                and classes[codes[place - 2]] & _UPPER
                and (place == 2 or not classes[codes[place - 3]] & _WORD)
            ):
                _put(out, count, IBAN, place - 2, end)
                count += 1
            if not lettered and end - place <= _MAX_DIGITS:
                first = place if first < 0 else first
                digits += end - place
                last = end
            place = end
        elif code == 64:
            if place > 0 and place + 1 < size and classes[codes[place + 1]] & _WORD:
                before = classes[codes[place - 1]]
                if before & (_WORD | _JOIN | _SLASH):
                    _put(out, count, AT, place, place + 1)
                    count += 1
            place += 1
        elif code == 58:
            left, right, wanted = _colons(codes, classes, place)
            if wanted:
                _put(out, count, COLONS, left, right)
                count += 1
            # The digits after the last colon may begin a number of their own.
            while right > place + 1 and codes[right - 1] != 58:
                right -= 1
            place = right
        else:
            place += 1
    if first >= 0 and (digits >= _MIN_DIGITS or dots >= 3):
        _put(out, count, NUMBER, first, last)
        count += 1
    return count


@numba.njit(cache=True, nogil=True)
def _scan(codes, classes, out):  # type: ignore[no-untyped-def]
    """Fill ``out`` with candidates; returns how many there are, which may be more than fit."""
    return _marks(codes, classes, out, _tokens(codes, classes, out))
