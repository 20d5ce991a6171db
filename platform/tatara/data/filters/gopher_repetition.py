"""Repetition rules of Gopher (Rae et al. 2021, appendix A.1.1, table A1)."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tatara.data.document import Document, Verdict
from tatara.data.filters.characters import classes, points
from tatara.data.filters.config_gopher import GopherRepetitionConfig, GopherRepetitionRules
from tatara.data.filters.repeats import Spans, intern_words, repeated_ngrams
from tatara.data.filters.words import word_spans
from tatara.data.steps import EachStep

_TOP, _DUPLICATE = 1, 2


def duplicates(parts: Sequence[str]) -> tuple[int, int]:
    """How many parts repeat an earlier one, and their characters."""
    if len(set(parts)) == len(parts):
        return 0, 0
    seen: set[str] = set()
    repeated = characters = 0
    for part in parts:
        if part in seen:
            repeated += 1
            characters += len(part)
        else:
            seen.add(part)
    return repeated, characters


def split_paragraphs(text: str) -> list[str]:
    """What blank lines separate."""
    return [part.lstrip("\n") for part in text.strip().split("\n\n") if part and part != "\n"]


class GopherRepetition(EachStep):
    """Repeated lines, paragraphs and n-grams."""

    config: GopherRepetitionConfig

    def __init__(self, config: GopherRepetitionConfig, directory: Path) -> None:
        super().__init__(config, directory)
        self._sizes: dict[int, tuple[Spans, Spans]] = {}

    def judge(self, document: Document) -> Verdict | None:
        """Apply Gopher's rules in the order of the table."""
        rules = self.config.parameters(document.language)
        return _parts(document.text, rules) or self._ngrams(document.text, rules)

    def _ngrams(self, text: str, rules: GopherRepetitionRules) -> Verdict | None:
        sizes, wanted = self._wanted(rules)
        if not len(sizes) or not text:
            return None
        codes = points(text)
        starts, lengths = word_spans(codes, classes())
        top, duplicate, _ = repeated_ngrams(intern_words(codes, starts, lengths), lengths, sizes, wanted)
        for key, measured in (("max_top_ngram", top), ("max_duplicate_ngrams", duplicate)):
            limits = getattr(rules, key)
            for n, characters in zip(sizes.tolist(), measured.tolist(), strict=True):
                if n in limits and characters / len(text) > limits[n]:
                    return Verdict(f"gopher_repetition.{key}", characters / len(text), limits[n])
        return None

    def _wanted(self, rules: GopherRepetitionRules) -> tuple[Spans, Spans]:
        found = self._sizes.get(id(rules))
        if found is None:
            sizes = sorted({*rules.max_top_ngram, *rules.max_duplicate_ngrams})
            wanted = [_TOP * (n in rules.max_top_ngram) | _DUPLICATE * (n in rules.max_duplicate_ngrams) for n in sizes]
            found = self._sizes[id(rules)] = (np.array(sizes, np.int32), np.array(wanted, np.int32))
        return found


def _parts(text: str, rules: GopherRepetitionRules) -> Verdict | None:
    paragraphs = split_paragraphs(text)
    lines = [line for line in text.split("\n") if line and not line.isspace()]
    for parts, key, limit, characters_key, characters_limit in (
        (
            paragraphs, "max_duplicate_paragraphs", rules.max_duplicate_paragraphs,
            "max_duplicate_paragraph_characters", rules.max_duplicate_paragraph_characters,
        ),
        (
            lines, "max_duplicate_lines", rules.max_duplicate_lines,
            "max_duplicate_line_characters", rules.max_duplicate_line_characters,
        ),
    ):  # fmt: skip
        repeated, characters = duplicates(parts)
        if not repeated:
            continue
        if repeated / len(parts) > limit:
            return Verdict(f"gopher_repetition.{key}", repeated / len(parts), limit)
        if characters / len(text) > characters_limit:
            return Verdict(f"gopher_repetition.{characters_key}", characters / len(text), characters_limit)
    return None
