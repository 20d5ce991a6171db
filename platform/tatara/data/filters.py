"""Heuristic quality rules. Each is a pure function from a text to the reason for dropping it, or None.

Reasons are ``<rule family>.<configuration key>``, so that a user knows what to relax.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from tatara.data.curate import C4Config, GopherQualityConfig, GopherRepetitionConfig, LengthConfig

_STOP_WORDS = frozenset({"the", "be", "to", "of", "and", "that", "have", "with"})
_BULLETS = ("•", "‣", "▶", "◀", "◦", "■", "□", "▪", "▫", "–", "-", "*")
_ELLIPSES = ("...", "…")
_SENTENCE_END = re.compile(r"[.!?。!?][\"'”’)\]]*(?:\s|$)|[。!?]")
_LETTER = re.compile(r"[^\W\d_]")
_PARAGRAPH = re.compile(r"\n\s*\n")
_WORD_EDGES = ".,;:!?\"'()[]{}<>`*_"


@dataclass(frozen=True)
class Verdict:
    """Why a document is dropped.

    Attributes:
        reason: The rule, as the configuration key that relaxes it.
        value: What was measured.
        limit: What the configuration allows.
    """

    reason: str
    value: float
    limit: float


def length(text: str, config: LengthConfig) -> Verdict | None:
    """Drop texts with too few characters."""
    if config.enabled and len(text) < config.min_characters:
        return Verdict("length.min_characters", len(text), config.min_characters)
    return None


def c4(text: str, config: C4Config) -> Verdict | None:
    """Document rules of C4 (Raffel et al. 2020, section 2.2)."""
    if not config.enabled:
        return None
    if config.drop_lorem_ipsum and "lorem ipsum" in text.lower():
        return Verdict("c4.drop_lorem_ipsum", 1, 0)
    if config.drop_curly_bracket and "{" in text:
        return Verdict("c4.drop_curly_bracket", text.count("{"), 0)
    sentences = len(_SENTENCE_END.findall(text))
    if sentences < config.min_sentences:
        return Verdict("c4.min_sentences", sentences, config.min_sentences)
    return None


def gopher_quality(text: str, config: GopherQualityConfig) -> Verdict | None:
    """Quality rules of Gopher (Rae et al. 2021, appendix A.1.1), the cheap ones first."""
    if not config.enabled:
        return None
    words = text.split()
    count = len(words)
    if count < config.min_words:
        return Verdict("gopher_quality.min_words", count, config.min_words)
    if count > config.max_words:
        return Verdict("gopher_quality.max_words", count, config.max_words)
    if not count:
        return None
    mean = sum(map(len, words)) / count
    if mean < config.min_mean_word_length:
        return Verdict("gopher_quality.min_mean_word_length", mean, config.min_mean_word_length)
    if mean > config.max_mean_word_length:
        return Verdict("gopher_quality.max_mean_word_length", mean, config.max_mean_word_length)
    symbols = max(text.count("#"), sum(text.count(mark) for mark in _ELLIPSES)) / count
    if symbols > config.max_symbol_ratio:
        return Verdict("gopher_quality.max_symbol_ratio", symbols, config.max_symbol_ratio)
    return _line_shapes(text, config) or _word_shapes(words, config)


def _line_shapes(text: str, config: GopherQualityConfig) -> Verdict | None:
    lines = [line for line in map(str.strip, text.split("\n")) if line]
    bullets = sum(line.startswith(_BULLETS) for line in lines) / len(lines)
    if bullets > config.max_bullet_lines:
        return Verdict("gopher_quality.max_bullet_lines", bullets, config.max_bullet_lines)
    ellipses = sum(line.endswith(_ELLIPSES) for line in lines) / len(lines)
    if ellipses > config.max_ellipsis_lines:
        return Verdict("gopher_quality.max_ellipsis_lines", ellipses, config.max_ellipsis_lines)
    return None


def _word_shapes(words: Sequence[str], config: GopherQualityConfig) -> Verdict | None:
    alphabetic = sum(1 for word in words if word.isalpha() or _LETTER.search(word)) / len(words)
    if alphabetic < config.min_alphabetic_words:
        return Verdict("gopher_quality.min_alphabetic_words", alphabetic, config.min_alphabetic_words)
    found: set[str] = set()
    if config.min_stop_words:
        for word in words:
            lowered = word.strip(_WORD_EDGES).lower()
            if lowered in _STOP_WORDS:
                found.add(lowered)
                if len(found) >= config.min_stop_words:
                    return None
        return Verdict("gopher_quality.min_stop_words", len(found), config.min_stop_words)
    return None


def gopher_repetition(text: str, config: GopherRepetitionConfig) -> Verdict | None:
    """Repetition rules of Gopher (Rae et al. 2021, table A1)."""
    if not config.enabled:
        return None
    size = len(text) or 1
    for parts, count_key, character_key in (
        ([part for part in _PARAGRAPH.split(text.strip()) if part], "paragraphs", "paragraph"),
        ([part for part in text.split("\n") if part.strip()], "lines", "line"),
    ):
        repeated, characters = _repeated(parts)
        share = repeated / len(parts) if parts else 0.0
        limit = getattr(config, f"max_duplicate_{count_key}")
        if share > limit:
            return Verdict(f"gopher_repetition.max_duplicate_{count_key}", share, limit)
        limit = getattr(config, f"max_duplicate_{character_key}_characters")
        if characters / size > limit:
            return Verdict(f"gopher_repetition.max_duplicate_{character_key}_characters", characters / size, limit)
    return _ngrams(text.split(), size, config)


def _repeated(parts: Sequence[str]) -> tuple[int, int]:
    """How many parts repeat an earlier one, and their characters."""
    seen: set[str] = set()
    repeated = characters = 0
    for part in parts:
        if part in seen:
            repeated += 1
            characters += len(part)
        else:
            seen.add(part)
    return repeated, characters


def _ngrams(words: Sequence[str], size: int, config: GopherRepetitionConfig) -> Verdict | None:
    for n, limit in zip((2, 3, 4), config.max_top_ngram, strict=True):
        share = top_ngram_characters(words, n) / size
        if share > limit:
            return Verdict("gopher_repetition.max_top_ngram", share, limit)
    # Without a repeated 5-gram there is no longer one either.
    if len(words) >= 5 and len(set(zip(*(words[i:] for i in range(5)), strict=False))) == len(words) - 4:
        return None
    for n, limit in zip(range(5, 11), config.max_duplicate_ngrams, strict=True):
        share = duplicate_ngram_characters(words, n) / size
        if share > limit:
            return Verdict("gopher_repetition.max_duplicate_ngrams", share, limit)
    return None


def top_ngram_characters(words: Sequence[str], n: int) -> int:
    """Characters in all occurrences of the most frequent n-gram of words; 0 when none occurs twice."""
    if len(words) < n:
        return 0
    counts = Counter(zip(*(words[i:] for i in range(n)), strict=False))
    count = max(counts.values())
    if count < 2:
        return 0
    top = max((gram for gram, occurs in counts.items() if occurs == count), key=lambda item: sum(map(len, item)))
    return (sum(map(len, top)) + n - 1) * count


def duplicate_ngram_characters(words: Sequence[str], n: int) -> int:
    """Characters in n-grams of words that occurred before; overlapping ones are counted once.

    The reading of the paper's rule that datatrove's ``find_all_duplicate`` has, word lengths without spaces.
    """
    seen: set[tuple[str, ...]] = set()
    characters = position = 0
    while position + n <= len(words):
        gram = tuple(words[position : position + n])
        if gram in seen:
            characters += sum(map(len, gram))
            position += n
        else:
            seen.add(gram)
            position += 1
    return characters
