"""Figures on the lines and characters of a text, in one pass of compiled code over its bytes."""

from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray

_ALPHABETIC, _DIGIT, _SYMBOL, _BLANK, _LETTER = 1, 2, 4, 8, 16
_PROSE = 15
_FIGURES = 13


@dataclass(frozen=True)
class Lines:
    """Figures on a text.

    Attributes:
        lines: Lines.
        filled: Those that are not blank.
        characters: Characters, ends of lines left out.
        longest: Characters of the longest line.
        alphabetic: Letters of any script.
        alphanumeric: Letters and digits.
        code: Characters of lines dense in the symbols of programming languages, without signs of LaTeX.
        commands: LaTeX commands, a backslash and letters.
        dollars: Dollar signs without a backslash.
        operators: Mathematical operators of Unicode (U+2200 to U+22FF).
        longest_encoded: Characters of the longest run that may be base64 or hexadecimal.
        digits: Digits.
        prose: Characters of long lines of many words that are neither indented nor comments nor dense in symbols.
    """

    lines: int
    filled: int
    characters: int
    longest: int
    alphabetic: int
    alphanumeric: int
    code: int
    commands: int
    dollars: int
    operators: int
    longest_encoded: int
    digits: int
    prose: int


def _classes() -> NDArray[np.uint8]:
    table = np.zeros(256, np.uint8)
    for code in range(128):
        character = chr(code)
        if character.isalpha():
            table[code] = _ALPHABETIC | _LETTER
        elif character.isdigit():
            table[code] = _DIGIT
        elif character in "{}[]();=<>_&^~+%":
            table[code] = _SYMBOL
        elif code <= 32:
            table[code] = _BLANK
    # Leading bytes of letters beyond ASCII; those of Latin-1 signs (C2) and of punctuation (E2) are none.
    for code in range(0xC3, 0xF5):
        table[code] = _ALPHABETIC
    table[0xE2] = 0
    return table


_CLASSES = _classes()


def figures(text: str) -> Lines:
    """Measure a text."""
    raw = np.frombuffer(text.encode("utf-8", "surrogatepass"), np.uint8)
    out = np.zeros(_FIGURES, np.int64)
    _measure(raw, _CLASSES, out)
    return Lines(*out.tolist())


@numba.njit(cache=True, nogil=True)
def _measure(raw, classes, out):  # type: ignore[no-untyped-def]
    size, place = raw.size, 0
    while place < size:
        characters = dense = symbols = signs = 0
        encoded = words = 0
        # One space may stand before prose, an indent may not.
        first = raw[place + 1] if raw[place] == 32 and place + 1 < size else raw[place]
        while place < size and raw[place] != 10:
            code = raw[place]
            kind = classes[code]
            place += 1
            if 0x80 <= code < 0xC0:  # inside of a character
                continue
            characters += 1
            dense += not kind & _BLANK
            # A character of a script without spaces between words counts for half a word.
            words += 2 * (code == 32) + (0xE3 <= code <= 0xE9)
            symbols += (kind & _SYMBOL) != 0
            out[4] += kind & _ALPHABETIC
            out[11] += (kind & _DIGIT) != 0
            if kind & (_LETTER | _DIGIT) or code == 43 or code == 47:
                encoded += 1
                out[10] = max(out[10], encoded)
            else:
                encoded = 0
                if code == 92:
                    if place + 1 < size and classes[raw[place]] & _LETTER and classes[raw[place + 1]] & _LETTER:
                        out[7] += 1
                        signs += 1
                    elif place < size and raw[place] == 36:
                        place += 1
                        characters += 1
                elif code == 36:
                    out[8] += 1
                    signs += 1
                elif code == 0xE2 and place < size and 0x88 <= raw[place] <= 0x8B:
                    out[9] += 1
                    signs += 1
        place += 1
        out[0] += 1
        out[1] += dense > 0
        out[2] += characters
        out[3] = max(out[3], characters)
        is_code = symbols >= 2 and symbols * 12 >= dense and not signs
        if is_code:
            out[6] += characters
        elif words >= _PROSE and (classes[first] & _LETTER or first >= 0xC3):
            out[12] += characters
    out[5] = out[4] + out[11]
