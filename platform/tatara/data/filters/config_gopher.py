"""Parameters of the rules of Gopher (Rae et al. 2021, arXiv:2112.11446, appendix A.1.1)."""

from typing import Any, ClassVar

from pydantic import Field, field_validator

from tatara.config import Config
from tatara.data.filters.per_language import CHARACTERS_PER_WORD, PerLanguage
from tatara.data.filters.stop_words import STOP_WORDS

_BULLETS_JA = ("•", "-", "・", "●", "■", "◆", "※", "○", "◇", "▼", "★")


class GopherQualityRules(Config):
    """Gopher's quality rules, "Quality Filtering" in appendix A.1.1; where that is silent, as datatrove has them."""

    min_words: int = Field(default=50, ge=0)
    """Fewest words, those made of punctuation and symbols alone left out."""
    max_words: int = Field(default=100_000, gt=0)
    """Most words, counted likewise."""
    min_mean_word_length: float = Field(default=3.0, ge=0)
    """Lowest mean length of those words, characters."""
    max_mean_word_length: float = Field(default=10.0, ge=0)
    """Highest mean length of those words, characters."""
    max_symbol_ratio: float = Field(default=0.1, ge=0)
    """Most "#" and, counted apart, most ellipses per word."""
    bullets: tuple[str, ...] = ("•", "-")
    """What a line with a bullet begins with."""
    max_bullet_lines: float = Field(default=0.9, ge=0, le=1)
    """Largest fraction of lines that begin with a bullet."""
    max_ellipsis_lines: float = Field(default=0.3, ge=0, le=1)
    """Largest fraction of lines that end with an ellipsis."""
    min_alphabetic_words: float = Field(default=0.8, ge=0, le=1)
    """Smallest fraction of words that hold a letter."""
    stop_words: tuple[str, ...] = ()
    """Function words, some of which every text in prose has; built in for some 35 languages. A word in a script without
    word spaces is sought inside the text; others are compared with whole words, without case."""
    min_stop_words: int = Field(default=2, ge=0)
    """How many of the stop words must occur; nothing is asked of a language without a list."""


def _built_in_quality() -> dict[str, dict[str, Any]]:
    rules: dict[str, dict[str, Any]] = {code: {"stop_words": words} for code, words in STOP_WORDS.items()}
    # Characters are words here, of length 1: their mean length says something only about foreign words in between.
    for code, scale in CHARACTERS_PER_WORD.items():
        rules[code] |= {
            "min_words": int(50 * scale),
            "max_words": int(100_000 * scale),
            "min_mean_word_length": 0.0,
            "max_symbol_ratio": round(0.1 / scale, 3),
        }
    # Vowel signs are words of their own in these scripts, and no letters.
    for code in ("th", "lo", "my", "km"):
        rules[code]["min_alphabetic_words"] = 0.6
    rules["ja"] |= {"bullets": _BULLETS_JA, "min_alphabetic_words": 0.7, "min_stop_words": 3}
    rules["zh"] |= {"bullets": _BULLETS_JA, "min_alphabetic_words": 0.7}
    # Korean syllables: words of 2 to 3 characters are the rule (FineWeb-2 fits such limits to each language).
    rules["ko"] |= {"min_mean_word_length": 1.5}
    rules["de"] |= {"max_mean_word_length": 14.0}
    rules["fi"] |= {"max_mean_word_length": 14.0}
    return rules


class GopherQualityConfig(PerLanguage[GopherQualityRules], GopherQualityRules):
    """Quality rules of Gopher (Rae et al. 2021, arXiv:2112.11446, appendix A.1.1)."""

    step: ClassVar[str] = "gopher_quality"
    implementation: ClassVar[str] = "tatara.data.filters.gopher_quality:GopherQuality"
    rules: ClassVar[type[Config]] = GopherQualityRules
    built_in: ClassVar[dict[str, dict[str, Any]]] = _built_in_quality()


class GopherRepetitionRules(Config):
    """Gopher's repetition rules, "Repetition Removal" in appendix A.1.1 and table A1."""

    max_duplicate_lines: float = Field(default=0.3, ge=0, le=1)
    """Largest fraction of lines that repeat an earlier line."""
    max_duplicate_paragraphs: float = Field(default=0.3, ge=0, le=1)
    """Largest fraction of paragraphs (parts between blank lines) that repeat an earlier paragraph."""
    max_duplicate_line_characters: float = Field(default=0.2, ge=0, le=1)
    """Largest fraction of characters in repeated lines."""
    max_duplicate_paragraph_characters: float = Field(default=0.2, ge=0, le=1)
    """Largest fraction of characters in repeated paragraphs."""
    max_top_ngram: dict[int, float] = Field(default={2: 0.2, 3: 0.18, 4: 0.16})
    """Words in an n-gram to the largest fraction of characters in all occurrences of the most frequent one."""
    max_duplicate_ngrams: dict[int, float] = Field(default={5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.1})
    """Words in an n-gram to the largest fraction of characters in n-grams that occurred before; overlapping ones are
    counted once."""

    @field_validator("max_top_ngram", "max_duplicate_ngrams")
    @classmethod
    def _sizes(cls, limits: dict[int, float]) -> dict[int, float]:
        if any(n < 1 or n > 1000 for n in limits):
            raise ValueError("an n-gram has from 1 to 1000 words")
        return dict(sorted(limits.items()))


def _built_in_repetition() -> dict[str, dict[str, Any]]:
    base = GopherRepetitionRules()
    # n-grams of characters that are as long as those of words.
    return {
        code: {
            name: {int(n * scale + 0.5): limit for n, limit in limits.items()}
            for name, limits in (
                ("max_top_ngram", base.max_top_ngram),
                ("max_duplicate_ngrams", base.max_duplicate_ngrams),
            )
        }
        for code, scale in CHARACTERS_PER_WORD.items()
    }


class GopherRepetitionConfig(PerLanguage[GopherRepetitionRules], GopherRepetitionRules):
    """Repetition rules of Gopher (Rae et al. 2021, arXiv:2112.11446, appendix A.1.1, table A1)."""

    step: ClassVar[str] = "gopher_repetition"
    implementation: ClassVar[str] = "tatara.data.filters.gopher_repetition:GopherRepetition"
    rules: ClassVar[type[Config]] = GopherRepetitionRules
    built_in: ClassVar[dict[str, dict[str, Any]]] = _built_in_repetition()
