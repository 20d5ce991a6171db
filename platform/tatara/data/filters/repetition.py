"""Repetition as single measured values: n-gram coverage, masked lines, runs of one character, compressibility."""

import re
import zlib
from pathlib import Path

import numpy as np
from numba import njit

from tatara.data.document import Document, Verdict
from tatara.data.filters.characters import SPACE, Classes, Points, classes, points
from tatara.data.filters.config_shape import RepetitionConfig, RepetitionRules
from tatara.data.filters.repeats import intern_words, repeated_ngrams
from tatara.data.filters.words import word_spans
from tatara.data.steps import EachStep

# Ranges are sought several times as fast as a category.
_NUMBER = re.compile("[0-9０-９]+")
_COVERED = np.full(1, 4, np.int32)


@njit(cache=True, nogil=True)
def longest_run(text: Points, table: Classes) -> int:
    """Characters of the longest run of one character other than white space."""
    longest = run = 0
    previous = np.uint32(0xFFFFFFFF)
    for point in text:
        if point == previous:
            run += 1
        else:
            run = 0 if table[point] & SPACE else 1
            previous = np.uint32(0xFFFFFFFF) if table[point] & SPACE else point
        longest = max(longest, run)
    return longest


def masked_lines(text: str) -> float:
    """Fraction of lines that repeat an earlier one when all numbers count as the same; blank lines do not count."""
    lines = [line for line in map(str.strip, _NUMBER.sub("0", text).split("\n")) if line]
    return 1 - len(set(lines)) / len(lines) if lines else 0.0


class Repetition(EachStep):
    """What logs, error messages, generated tables and padding have too much of."""

    config: RepetitionConfig

    def __init__(self, config: RepetitionConfig, directory: Path) -> None:
        super().__init__(config, directory)

    def judge(self, document: Document) -> Verdict | None:
        """Measure in the order of cost."""
        text, rules = document.text, self.config.parameters(document.language)
        if not text:
            return None
        share = masked_lines(text)
        if share > rules.max_masked_lines:
            return Verdict("repetition.max_masked_lines", share, rules.max_masked_lines)
        return _runs(text, rules) or _compressed(text, rules)


def _runs(text: str, rules: RepetitionRules) -> Verdict | None:
    codes, table = points(text), classes()
    run = longest_run(codes, table)
    if run > rules.max_character_run:
        return Verdict("repetition.max_character_run", run, rules.max_character_run)
    starts, lengths = word_spans(codes, table)
    words = intern_words(codes, starts, lengths)
    covered = int(repeated_ngrams(words, lengths, np.full(1, rules.ngram, np.int32), _COVERED)[2][0])
    if covered:
        share = covered / int(lengths.sum())
        if share > rules.max_ngram_coverage:
            return Verdict("repetition.max_ngram_coverage", share, rules.max_ngram_coverage)
    return None


def _compressed(text: str, rules: RepetitionRules) -> Verdict | None:
    if rules.min_compressed is None:
        return None
    raw = text.encode("utf-8", "replace")
    ratio = len(zlib.compress(raw, 1)) / len(raw)
    return Verdict("repetition.min_compressed", ratio, rules.min_compressed) if ratio < rules.min_compressed else None
