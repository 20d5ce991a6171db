"""FineWeb's own rules (Penedo et al. 2024, section 3.6)."""

import functools
from collections.abc import Sequence

from tatara.data.document import Document, Verdict
from tatara.data.filters.config_shape import FineWebConfig, FineWebRules
from tatara.data.filters.gopher_repetition import duplicates
from tatara.data.filters.words import count_words
from tatara.data.steps import EachStep

_TERMINAL = ".!?｡。．！？﹒﹗‼⁇⁈⁉؟۔।॥։՜՞᙮።፧፨၊။។៕᠃᠉꓿꘎꘏꛳꛷꡶꡷꣎꣏꤯꧈꧉꩝꩞꩟꫰꫱꯫⸮⸼߹܀܁܂᥄᥅᪨᪩᪪᪫᭚᭛᭞᭟᰻᰼᱾᱿"
"""Characters of Unicode's property Sentence_Terminal in the scripts of today."""


@functools.cache
def _ends(more: str) -> frozenset[str]:
    return frozenset(_TERMINAL + more)


class FineWeb(EachStep):
    """Lists, menus and repeated lines."""

    config: FineWebConfig

    def judge(self, document: Document) -> Verdict | None:
        """Apply FineWeb's rules to the lines that are not blank, without the white space around them."""
        text, rules = document.text, self.config.parameters(document.language)
        lines = document.lines
        if not lines:
            return None
        return _lines(text, lines, rules) or _list(text, rules)


def _lines(text: str, lines: Sequence[str], rules: FineWebRules) -> Verdict | None:
    ends = _ends(rules.terminal_punctuation)
    share = sum([line[-1] in ends for line in lines]) / len(lines)
    if share < rules.min_punctuated_lines:
        return Verdict("fineweb.min_punctuated_lines", share, rules.min_punctuated_lines)
    short = rules.short_line
    share = sum([len(line) <= short for line in lines]) / len(lines)
    if share > rules.max_short_lines:
        return Verdict("fineweb.max_short_lines", share, rules.max_short_lines)
    share = duplicates(lines)[1] / (len(text) - text.count("\n"))
    if share > rules.max_duplicate_line_characters:
        return Verdict("fineweb.max_duplicate_line_characters", share, rules.max_duplicate_line_characters)
    return None


def _list(text: str, rules: FineWebRules) -> Verdict | None:
    newlines = text.count("\n")
    if newlines:
        words = count_words(text)
        if newlines > rules.max_newlines * words:
            return Verdict("fineweb.max_newlines", newlines / words, rules.max_newlines)
    return None
