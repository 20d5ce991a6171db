"""Formulas of a text, and what is broken about them, in one pass of compiled code over its bytes."""

from dataclasses import dataclass

import numba
import numpy as np

_TEXT, _DOLLAR, _DOLLARS, _ROUND, _SQUARE = range(5)
_BASIS, _PRIME = np.uint64(0xCBF29CE484222325), np.uint64(0x100000001B3)
_DEPTH = 64
_FIGURES = 8
_ENVIRONMENTS = (
    "equation eqnarray align alignat flalign gather multline math displaymath array cases split aligned gathered "
    "subequations matrix pmatrix bmatrix Bmatrix vmatrix Vmatrix smallmatrix"
)


@dataclass(frozen=True)
class Formulas:
    """Figures on a text.

    Attributes:
        delimiters: Signs at which a formula or an environment begins or ends.
        broken: Those without a partner, and both of formulas whose braces do not pair.
        formulas: Formulas.
        empty: Those without a letter, digit or command.
        inside: Bytes in formulas.
        filled: Bytes that are not blank.
        digits: Digits.
        words: Words outside of formulas: runs of three letters or more; in scripts without spaces, three characters.
    """

    delimiters: int
    broken: int
    formulas: int
    empty: int
    inside: int
    filled: int
    digits: int
    words: int


def _hash(name: bytes) -> int:
    value = int(_BASIS)
    for byte in name:
        value = ((value ^ byte) * int(_PRIME)) & 0xFFFFFFFFFFFFFFFF
    return value


_NAMES = _ENVIRONMENTS.split()
_MATHEMATICAL = np.array([_hash(f"{n}{star}".encode()) for n in _NAMES for star in ("", "*")], np.uint64)


def figures(text: str) -> Formulas:
    """Measure a text.

    A single dollar sign opens a formula where no blank follows it, and closes one where no blank stands before it and
    no digit follows (the rule of Pandoc), so that prices are none. Inside of one paragraph, that is.
    """
    raw = np.frombuffer(text.encode("utf-8", "surrogatepass"), np.uint8)
    out = np.zeros(_FIGURES, np.int64)
    _measure(raw, _MATHEMATICAL, out)
    return Formulas(*out.tolist())


@numba.njit(cache=True, nogil=True)
def _name(raw, place):  # type: ignore[no-untyped-def]
    """Hash of the name in braces here, and where it ends; 0 where there is none."""
    value = _BASIS
    for end in range(place + 1, min(place + 40, raw.size)):
        if raw[end] == 125:
            return value, end + 1
        if raw[end] <= 32:
            break
        value = (value ^ np.uint64(raw[end])) * _PRIME
    return np.uint64(0), place


@numba.njit(cache=True, nogil=True)
def _is(raw, place, word):  # type: ignore[no-untyped-def]
    same = place + len(word) <= raw.size
    for index in range(len(word) if same else 0):
        same = same and raw[place + index] == word[index]
    return same


_BEGIN, _END = np.frombuffer(b"begin{", np.uint8), np.frombuffer(b"end{", np.uint8)


# What is known of the formula that is open: how it began and where, groups open in it, whether it holds anything, and
# what it will count for once it is known whether something closes it.
_STATE, _OPENED, _GROUPS, _CONTENT, _INSIDE, _WORDS, _DEPTH_NOW, _OUTERMOST = range(8)


@numba.njit(cache=True, nogil=True)
def _open(now, out, state, place):  # type: ignore[no-untyped-def]
    now[_STATE], now[_OPENED] = state, place
    now[_GROUPS] = now[_CONTENT] = now[_INSIDE] = now[_WORDS] = 0
    out[0] += 1


@numba.njit(cache=True, nogil=True)
def _close(now, out):  # type: ignore[no-untyped-def]
    out[0] += 1
    out[1] += 2 * (now[_GROUPS] != 0)
    out[2] += 1
    out[3] += now[_CONTENT] == 0
    out[4] += now[_INSIDE]
    now[_STATE] = _TEXT


@numba.njit(cache=True, nogil=True)
def _give_up(raw, now, out):  # type: ignore[no-untyped-def]
    """Count a delimiter that nothing closes; a dollar sign before a digit is a price."""
    after = now[_OPENED] + 1
    if raw[now[_OPENED]] == 36 and after < raw.size and (48 <= raw[after] <= 57 or raw[after] in (46, 60)):
        out[0] -= 1
    else:
        out[1] += 1
    out[7] += now[_WORDS]
    now[_STATE] = _TEXT


@numba.njit(cache=True, nogil=True)
def _dollar(raw, place, now, out):  # type: ignore[no-untyped-def]
    """Handle a dollar sign; returns how many bytes belong to it."""
    after = raw[place + 1] if place + 1 < raw.size else 32
    if after == 36 and now[_STATE] == _DOLLAR and raw[place - 1] <= 32:
        _give_up(raw, now, out)
    state = now[_STATE]
    if after == 36 and state in (_TEXT, _DOLLARS):
        if state == _TEXT:
            _open(now, out, _DOLLARS, place)
        else:
            _close(now, out)
        return 2
    if state == _DOLLAR and raw[place - 1] > 32 and not 48 <= after <= 57:
        _close(now, out)
    elif state in (_TEXT, _DOLLAR):
        if state == _DOLLAR:
            _give_up(raw, now, out)
        if after > 32:
            _open(now, out, _DOLLAR, place)
    return 1


@numba.njit(cache=True, nogil=True)
def _command(raw, place, now, names, mathematical, out):  # type: ignore[no-untyped-def]
    """Handle a backslash; returns how many bytes belong to it."""
    after = raw[place + 1] if place + 1 < raw.size else 32
    kind = _ROUND if after == 40 else _SQUARE
    if after in (40, 91) and now[_STATE] == kind:
        _give_up(raw, now, out)
    text = now[_STATE] == _TEXT and now[_OUTERMOST] < 0
    if after in (40, 91) and text:
        _open(now, out, kind, place)
    elif after in (41, 93) and now[_STATE] == (_ROUND if after == 41 else _SQUARE):
        _close(now, out)
    elif after in (41, 93) and text:
        out[0] += 1
        out[1] += 1
    elif (after == 98 and _is(raw, place + 1, _BEGIN)) or (after == 101 and _is(raw, place + 1, _END)):
        name, end = _name(raw, place + (6 if after == 98 else 4))
        out[0] += 1
        depth = now[_DEPTH_NOW]
        if after == 98:
            for known in mathematical:
                if text and known == name:
                    now[_OUTERMOST] = depth
                    out[2] += 1
            if depth < _DEPTH:
                names[depth] = name
            now[_DEPTH_NOW] += 1
        elif depth and (depth > _DEPTH or names[depth - 1] == name):
            now[_DEPTH_NOW] -= 1
            if depth - 1 <= now[_OUTERMOST]:
                now[_OUTERMOST] = -1
        else:
            out[1] += 1
        return max(2, end - place)
    return 2


@numba.njit(cache=True, nogil=True)
def _measure(raw, mathematical, out):  # type: ignore[no-untyped-def]
    size, place, letters, wide = raw.size, 0, 0, 0
    now, names = np.zeros(8, np.int64), np.zeros(_DEPTH, np.uint64)
    now[_OUTERMOST] = -1
    while place < size:
        code = raw[place]
        width = 1
        open_before = now[_STATE] != _TEXT
        if code == 92:
            width = _command(raw, place, now, names, mathematical, out)
        elif code == 36:
            width = _dollar(raw, place, now, out)
        elif code == 10 and now[_STATE] != _TEXT and place + 1 < size and raw[place + 1] == 10:
            _give_up(raw, now, out)
        elif code in (123, 125) and now[_STATE] != _TEXT:
            now[_GROUPS] += 1 if code == 123 else -1
        elif code > 32:
            now[_CONTENT] += 1
        now[_CONTENT] += code == 92 and open_before and now[_STATE] != _TEXT
        formula, environment = now[_STATE] != _TEXT, now[_OUTERMOST] >= 0
        letter = code >= 65 and (code | 32) < 123 and (code | 32) > 96
        letters = letters + 1 if letter else 0
        # A word counts at its third letter.
        word = letters == 3 and not environment
        out[7] += word and not formula
        now[_WORDS] += word and formula
        wide += 0xE3 <= code <= 0xE9 and not formula and not environment
        out[6] += 48 <= code <= 57
        for index in range(place, min(place + width, size)):
            out[5] += raw[index] > 32
            if raw[index] > 32:
                out[4] += environment and not formula
                now[_INSIDE] += formula
        place += width
    if now[_STATE] != _TEXT:
        _give_up(raw, now, out)
    out[1] += now[_DEPTH_NOW]
    out[7] += wide // 3
