"""What the syntax of a source file says: comments, brackets, whether it parses, what of a page is visible."""

import json
import re
import symtable
import warnings

import numba
import numpy as np

from tatara.data.special.languages import (
    BACKTICKS,
    BRACKETS,
    DASHES,
    HASH,
    LANGUAGES,
    PERCENT,
    QUOTES,
    SEMICOLON,
    SLASHES,
    TRIPLE,
)

_PYTHON_2 = re.compile(
    r"^[ \t]*(?:print[ \t]+[\"'\w]|print[ \t]*>>|exec[ \t]+[\"'\w]|raise[ \t]+[\w.]+[ \t]*,)"
    r"|^[ \t]*except[ \t]+[\w.]+[ \t]*,[ \t]*\w+[ \t]*:|^[ \t]*except[ \t]*\([\w., \t]{1,200}\)[ \t]*,"
    r"|\bur[\"']|[=(,][ \t]*0[0-7]{2,}[lL]?\b|[=(,][ \t]*\d+[lL]\b",
    re.MULTILINE,
)
_MAGIC = re.compile(r"^[ \t]*[%!?].*$", re.MULTILINE)
_TAG = re.compile(r"<[^<>]*>")
_HIDDEN = re.compile(r"<(script|style|template|svg)\b")
_BLANKS = re.compile(r"\s+")


def parses_as_python(text: str) -> bool:
    """Whether this interpreter reads it, or it looks like Python 2."""
    if _parses(text) or _PYTHON_2.search(text):
        return True
    # Notebooks turned into scripts hold lines for the shell.
    without = _MAGIC.sub("", text)
    return without != text and _parses(without)


def _parses(text: str) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # Parses like ast.parse, but builds no tree of Python objects: six times as fast.
            symtable.symtable(text.removeprefix("\ufeff"), "document", "exec")
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return False
    return True


def parses_as_json(text: str) -> bool:
    """Whether it is JSON; comments at the beginning of lines are forgiven."""
    try:
        json.loads(re.sub(r"^[ \t]*//.*$", "", text, flags=re.MULTILINE) if "//" in text else text)
    except (ValueError, RecursionError):
        return False
    return True


def visible_characters(page: str) -> int:
    """Characters of an HTML page that are neither tags nor scripts nor styles, white space counted once."""
    lower = page.lower()
    pieces, start = [], 0
    while (match := _HIDDEN.search(lower, start)) is not None:
        pieces.append(lower[start : match.start()])
        end = lower.find(f"</{match[1]}", match.end())
        start = len(lower) if end < 0 else end
    pieces.append(lower[start:])
    return len(_BLANKS.sub(" ", _TAG.sub(" ", "".join(pieces))).strip())


def scan(text: str, language: str) -> tuple[float, float, int]:
    """Comments and brackets.

    Args:
        text: A source file.
        language: One of `LANGUAGES`.

    Returns:
        Share of the bytes that are not blank that lie in comments; share of brackets outside of comments and strings
        that have no partner; how many those are. The latter are 0 where brackets need not balance.
    """
    style = LANGUAGES[language][0]
    raw = np.frombuffer(text.encode("utf-8", "surrogatepass"), np.uint8)
    filled, comments, brackets, unmatched = _scan(raw, style)
    if not style & BRACKETS:
        brackets = unmatched = 0
    return comments / max(filled, 1), unmatched / max(brackets, 1), int(unmatched)


@numba.njit(cache=True, nogil=True)
def _comment(raw, place, style):  # type: ignore[no-untyped-def]
    """Whether a comment begins here: 1 to the end of the line, 2 to ``*/``, 0 none."""
    code = raw[place]
    after = raw[place + 1] if place + 1 < raw.size else 0
    if code == 47 and style & SLASHES:
        return 1 if after == 47 else 2 if after == 42 else 0
    if code == 35 and style & HASH:
        return 1
    if code == 45 and after == 45 and style & DASHES:
        return 1
    return 1 if (code == 59 and style & SEMICOLON) or (code == 37 and style & PERCENT) else 0


@numba.njit(cache=True, nogil=True)
def _string_end(raw, place, style):  # type: ignore[no-untyped-def]
    """Where the string that begins here ends; ``place`` where none does."""
    code, size = raw[place], raw.size
    if code == 39 and not style & QUOTES:  # a character, perhaps escaped, or else a lifetime or a prime
        for length in range(2, 12):
            if place + length < size and raw[place + length] == 39 and (raw[place + 1] == 92 or length < 6):
                if not (length == 2 and raw[place + 1] == 92):
                    return place + length + 1
            elif place + length >= size or raw[place + length] == 10:
                break
        return place
    if code != 34 and code != 39 and not (code == 96 and style & BACKTICKS):
        return place
    triple = style & TRIPLE and place + 2 < size and raw[place + 1] == code and raw[place + 2] == code
    end = place + (3 if triple else 1)
    while end < size:
        if raw[end] == 92:
            end += 2
        elif raw[end] == code and not triple:
            return end + 1
        elif raw[end] == code and end + 2 < size and raw[end + 1] == code and raw[end + 2] == code:
            return end + 3
        elif raw[end] == 10 and not triple and code != 96:  # nobody closed it: go on after the line
            return end
        else:
            end += 1
    return size


@numba.njit(cache=True, nogil=True)
def _scan(raw, style):  # type: ignore[no-untyped-def]
    """Bytes that are not blank, those in comments, brackets, brackets without partner."""
    size, place, line_start = raw.size, 0, True
    filled = comments = brackets = unmatched = 0
    depths = np.zeros(3, np.int64)
    while place < size:
        code = raw[place]
        if code <= 32:
            line_start = line_start or code == 10
            place += 1
            continue
        begins = _comment(raw, place, style)
        end = place + 1
        in_comment = begins != 0
        if begins == 1:
            while end < size and raw[end] != 10:
                end += 1
        elif begins == 2:
            end = place + 2
            while end < size and not (raw[end] == 47 and raw[end - 1] == 42 and end > place + 2):
                end += 1
            end = min(end + 1, size)
        else:
            string_end = _string_end(raw, place, style)
            if string_end > place:
                end = min(string_end, size)
                # A string in three quotes that begins a line documents.
                in_comment = (
                    line_start and end - place > 5 and style & TRIPLE and raw[place + 1] == code == raw[place + 2]
                )
            else:
                for kind, (opening, closing) in enumerate(((40, 41), (91, 93), (123, 125))):
                    if code == opening:
                        depths[kind] += 1
                        brackets += 1
                    elif code == closing:
                        brackets += 1
                        if depths[kind]:
                            depths[kind] -= 1
                        else:
                            unmatched += 1
        for index in range(place, end):
            if raw[index] > 32:
                filled += 1
                comments += in_comment
        line_start = False
        place = end
    return filled, comments, brackets, unmatched + depths.sum()
