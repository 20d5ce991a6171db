"""Mojibake, control characters, line ends: ftfy where there is something to repair, and only there."""

import functools
import re
import unicodedata
from typing import Any

from tatara.data.document import Document, Verdict
from tatara.data.steps import EachStep
from tatara.errors import require

_LINE = re.compile(r"[^\n]*\n|[^\n]+")
_TOUCHED_ASCII = re.compile(r"[^\t\n -~]")
# What ftfy removes or replaces besides mojibake: control characters, and line ends other than "\n".
_CONTROLS = r"[\x00-\x08\x0b-\x1f\x7f-\x{9f}\x{2028}\x{2029}\x{206a}-\x{206f}\x{feff}\x{fff9}-\x{fffc}]"
# Normalization takes time quadratic in the length of a run of combining marks. Unicode's stream-safe text format
# (UAX #15, section 13) breaks runs with U+034F after 30 marks; no writing system needs as many.
_MARKS_KEPT = 30
_JOINER = "\u034f"
_LONG_LINE = 2000


class RepairStep(EachStep):
    """Replaces each document's text by its repaired form; drops none."""

    def judge(self, document: Document) -> Verdict | None:
        """Repair one document."""
        text = repair(document.text)
        if text != document.text:
            document.text = text
            document.counts["repair.changed"] += 1
        return None


def repair(text: str) -> str:
    """Repair mojibake, control characters and line ends with ftfy; the result is NFC.

    What ftfy would return as it is, is not shown to it: plain ASCII, and lines without control characters that are
    normal already and in which its own test for mojibake finds nothing. The outcome is the same, at a fraction of the
    time.
    """
    if _is_clean(text):
        return text
    # ftfy works line by line, so that lines can be left out. A line's end belongs to it.
    return "".join(line if _is_clean(line) else _fix(line) for line in _LINE.findall(text))


def _fix(text: str) -> str:
    text = _stream_safe(text)
    if len(text) > _LONG_LINE and _has_long_run(_ftfy(text, None)):
        return _fix_long_runs(text)
    return _ftfy(text, "NFC")


def _fix_long_runs(text: str) -> str:
    """Repair mojibake of more combining marks in a row than can be normalized."""
    while True:
        fixed = unicodedata.normalize("NFC", _stream_safe(_ftfy(text, None)))
        if fixed == text:
            return text
        text = fixed


def _ftfy(text: str, normalization: str | None) -> str:
    # Curly quotes, ligatures and full-width forms are the author's choice, not damage; code samples keep entities.
    fixed: str = require("ftfy", "data").fix_text(
        text, uncurl_quotes=False, fix_character_width=False, fix_latin_ligatures=False, unescape_html=False,
        normalization=normalization, explain=False,
    )  # fmt: skip
    return fixed


def _is_clean(text: str) -> bool:
    """Whether ftfy would return a text, or a line of it, as it is."""
    if not _TOUCHED_ASCII.search(text):
        return True
    try:
        encoded = text.encode("utf-8")
    except UnicodeEncodeError:
        return False  # surrogates
    return not _suspect().search(encoded) and unicodedata.is_normalized("NFC", text)


def _stream_safe(text: str) -> str:
    if not _has_long_run(text):
        return text
    pieces, marks = [], 0
    for character in text:
        marks = marks + 1 if unicodedata.combining(character) else 0
        if marks > _MARKS_KEPT:
            pieces.append(_JOINER)
            marks = 1
        pieces.append(character)
    return "".join(pieces)


def _has_long_run(text: str) -> bool:
    return bool(_long_runs().search(text.encode("utf-8", errors="replace")))


@functools.cache
def _long_runs() -> Any:
    return require("re2", "data").compile(rb"\pM{%d}" % (_MARKS_KEPT + 1))


@functools.cache
def _suspect() -> Any:
    """A pattern that matches wherever ftfy might change something, except for normalization.

    It is ftfy's own expression for mojibake, translated for an engine that looks at each byte once whatever the number
    of alternatives. Where the two differ in what a class means, this one matches more.
    """
    badness = require("ftfy.badness", "data")
    re2 = require("re2", "data")
    options = re2.Options()
    options.max_mem = 64 << 20
    options.log_errors = False
    mojibake = _translate(badness.BADNESS_RE.pattern)
    return re2.compile(f"{_CONTROLS}|{mojibake}".encode(), options)


def _translate(verbose: str) -> str:
    """A verbose expression of Python in RE2's syntax: no comments and no layout, Unicode spaces and letters."""
    plain, position, inside = [], 0, False
    while position < len(verbose):
        character = verbose[position]
        if character == "\\":
            plain.append(_ESCAPES.get(verbose[position : position + 2], verbose[position : position + 2]))
            position += 2
            continue
        if character == "#" and not inside:
            end = verbose.find("\n", position)
            position = len(verbose) if end < 0 else end
            continue
        if inside or not character.isspace():
            # A line's beginning, because that is where ftfy begins to look.
            plain.append("(?m:^)" if character == "^" and not inside and verbose[position - 1] != "[" else character)
        inside = character != "]" if inside else character == "["
        position += 1
    return "".join(plain)


_ESCAPES = {r"\s": r"[\s\x0b\x1c-\x1f\x{85}\pZ]", r"\w": r"[0-9A-Z_a-z\x{80}-\x{10ffff}]"}
