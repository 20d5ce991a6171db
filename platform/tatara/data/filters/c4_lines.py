"""Line rules of C4 (Raffel et al. 2020, section 2.2): they take lines out of texts."""

import re

from tatara.data.document import Document, Verdict
from tatara.data.filters.characters import classes, points
from tatara.data.filters.config_c4 import C4LinesConfig
from tatara.data.filters.words import split_words, word_spans
from tatara.data.steps import EachStep

_CITATION = re.compile(r"\[\d*\]|\[edit\]|\[citation needed\]")


class C4Lines(EachStep):
    """Keeps lines that look like sentences."""

    config: C4LinesConfig

    def judge(self, document: Document) -> Verdict | None:
        """Rewrite the text; drop the document if nothing is left of it."""
        text, rules = document.text, self.config.parameters(document.language)
        if rules.drop_citations and "[" in text:
            text, citations = _CITATION.subn("", text)
            document.counts["c4_lines.citations"] += citations
        lines = [line for line in map(str.strip, text.splitlines()) if line]
        lowered = text.lower()
        phrases = tuple(phrase for phrase in rules.drop_phrases if phrase in lowered)
        kept = lines
        if rules.terminal_punctuation:
            kept = [line for line in kept if line.endswith(rules.terminal_punctuation)]
        if any(ellipsis in text for ellipsis in rules.ellipses):
            kept = [line for line in kept if not line.endswith(rules.ellipses)]
        kept = [line for line in kept if _enough_words(line, rules.min_words) and not _is_boilerplate(line, phrases)]
        kept = [
            line for line in kept if len(line) <= rules.max_word_length or _short_words(line, rules.max_word_length)
        ]
        document.counts["c4_lines.lines"] += len(lines) - len(kept)
        document.text = "\n".join(kept)
        # What was empty before is left to other rules.
        return Verdict("c4_lines.lines", 0, 1) if lines and not kept else None


def _enough_words(line: str, needed: int) -> bool:
    if len(line.split(None, needed)) >= needed:
        return True
    return not line.isascii() and len(word_spans(points(line), classes())[0]) >= needed


def _is_boilerplate(line: str, phrases: tuple[str, ...]) -> bool:
    if not phrases:
        return False
    lowered = line.lower()
    return any(phrase in lowered for phrase in phrases)


def _short_words(line: str, longest: int) -> bool:
    return all(len(word) <= longest for word in split_words(line))
