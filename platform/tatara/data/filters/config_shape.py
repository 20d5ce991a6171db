"""Parameters of rules about lines and repetition, and of those made for Japanese."""

from typing import Any, ClassVar

from pydantic import Field

from tatara.config import Config
from tatara.data.filters.per_language import CHARACTERS_PER_WORD, PerLanguage
from tatara.data.steps import Selection, StepConfig


class FineWebRules(Config):
    """FineWeb's own rules."""

    min_punctuated_lines: float = Field(default=0.12, ge=0, le=1)
    """Smallest fraction of lines that end with terminal punctuation."""
    terminal_punctuation: str = ""
    """Characters that end a sentence besides those that Unicode calls so."""
    max_short_lines: float = Field(default=0.67, ge=0, le=1)
    """Largest fraction of short lines."""
    short_line: int = Field(default=30, ge=0)
    """Characters up to which a line is short."""
    max_duplicate_line_characters: float = Field(default=0.1, ge=0, le=1)
    """Largest fraction of characters in lines that repeat an earlier one (0.1 in the paper and in FineWeb-2; 0.01 is
    datatrove's default)."""
    max_newlines: float = Field(default=0.3, ge=0)
    """Most newlines per word: beyond it a document is a list (in datatrove, not in the paper)."""


def _built_in_fineweb() -> dict[str, dict[str, Any]]:
    # Lines of 30 characters have 5 to 6 English words: as many characters for as many words.
    return {
        "ja": {"short_line": 15, "max_newlines": 0.15, "terminal_punctuation": "」』）"},
        "zh": {"short_line": 12, "max_newlines": 0.2, "terminal_punctuation": "”」』）"},
        "ko": {"short_line": 18},
        # No mark ends a sentence; a character is a quarter of a word.
        **{code: {"min_punctuated_lines": 0.0, "max_newlines": 0.075} for code in ("th", "lo")},
        **{code: {"max_newlines": 0.075} for code in ("my", "km")},
    }


class FineWebConfig(PerLanguage[FineWebRules], FineWebRules):
    """FineWeb's own rules (Penedo et al. 2024, arXiv:2406.17557, section 3.6), as datatrove's FineWebQualityFilter."""

    step: ClassVar[str] = "fineweb"
    implementation: ClassVar[str] = "tatara.data.filters.fineweb:FineWeb"
    rules: ClassVar[type[Config]] = FineWebRules
    built_in: ClassVar[dict[str, dict[str, Any]]] = _built_in_fineweb()


class RepetitionRules(Config):
    """Repetition that fixed n-grams and whole lines miss."""

    ngram: int = Field(default=10, ge=1, le=1000)
    """Words in an n-gram."""
    max_ngram_coverage: float = Field(default=0.3, ge=0, le=1)
    """Largest fraction of characters that lie in n-grams which occur more than once, all occurrences counted (Llama 3,
    Grattafiori et al. 2024, arXiv:2407.21783, section 3.1.1, has such a ratio against logs and error messages)."""
    max_masked_lines: float = Field(default=0.5, ge=0, le=1)
    """Largest fraction of lines that repeat an earlier one once every digit counts as the same: logs, tables."""
    max_character_run: int = Field(default=1000, gt=0)
    """Longest run of one character other than white space, characters."""
    min_compressed: float | None = Field(default=None, ge=0)
    """Smallest ratio of the size compressed by zlib, level 1, to the size, bytes; null to not ask. English prose has
    about 0.45."""


class RepetitionConfig(PerLanguage[RepetitionRules], RepetitionRules):
    """Repetition as single measured values."""

    step: ClassVar[str] = "repetition"
    implementation: ClassVar[str] = "tatara.data.filters.repetition:Repetition"
    rules: ClassVar[type[Config]] = RepetitionRules
    built_in: ClassVar[dict[str, dict[str, Any]]] = {
        code: {"ngram": round(10 * scale)} for code, scale in CHARACTERS_PER_WORD.items()
    }


class JapaneseConfig(StepConfig):
    """Rules for Japanese.

    Most are those of the Swallow Corpus (Okazaki et al. 2024, arXiv:2404.17733; upstream swallow-corpus,
    ``quality.py``), some are in the manner of HojiChar's ``document_filters.py``. "Japanese characters" are hiragana,
    katakana, kanji and the marks 、，。．！？.
    """

    step: ClassVar[str] = "japanese"
    implementation: ClassVar[str] = "tatara.data.filters.japanese:Japanese"

    only: Selection = Selection(languages=("ja",))
    """Which documents the step looks at."""

    min_characters: int = Field(default=400, ge=0)
    """Fewest Japanese characters (Swallow)."""
    min_japanese: float = Field(default=0.15, ge=0, le=1)
    """Smallest fraction of Japanese characters among all but white space. Swallow has 0.5 for prose from the web; text
    around code, or beside its translation, has less."""
    min_hiragana: float = Field(default=0.2, ge=0, le=1)
    """Smallest fraction of hiragana among Japanese characters (Swallow). Lists of names and products have little."""
    max_katakana: float = Field(default=0.5, ge=0, le=1)
    """Largest fraction of katakana among Japanese characters (Swallow)."""
    min_punctuation: float = Field(default=0.015, ge=0, le=1)
    """Smallest fraction of 、，。．！？ among Japanese characters."""
    min_sentence_text: float = Field(default=0.45, ge=0, le=1)
    """Smallest fraction of kana and kanji in sentences that have hiragana and end with 。．！？!? or a closing bracket.
    Menus, lists of links and headlines end with their line."""
    min_mean_sentence: float = Field(default=15, ge=0)
    """Lowest mean length of sentences that have hiragana, characters. Swallow has 20, for dialogue too short."""
    max_mean_sentence: float | None = Field(default=None, gt=0)
    """Highest mean length of these, characters; null for no limit. Swallow has 90, which modern web text keeps to and
    literature before 1945 does not."""
    max_sentence: int | None = Field(default=None, gt=0)
    """Longest sentence, characters; null for no limit. Swallow has 200, for the same text."""
    max_ellipsis_sentences: float = Field(default=0.2, ge=0, le=1)
    """Largest fraction of sentences that end with … or ・ (Swallow)."""
    noun_run: int = Field(default=25, gt=0)
    """Katakana and kanji in a row, without a hiragana or an end of sentence among them, from which it is no sentence
    but a list of nouns."""
    max_noun_runs: float = Field(default=0.3, ge=0, le=1)
    """Largest fraction of katakana and kanji that stand in such rows: keyword spam, lists of tags and products."""
    boilerplate: tuple[str, ...] = ()
    """Files of further phrases, one per line, that mark a short line as boilerplate."""
    boilerplate_line: int = Field(default=40, gt=0)
    """Characters up to which a line can be boilerplate."""
    max_boilerplate_lines: float = Field(default=0.15, ge=0, le=1)
    """Largest fraction of lines that are boilerplate: short, not ended by 。 and with a phrase such as 続きを読む."""
    trim_boilerplate: bool = False
    """Whether boilerplate lines at the beginning and end are taken out before anything is measured (Swallow trims
    footers); counted as ``japanese.lines``."""

    def files(self) -> tuple[str, ...]:
        """The lists of phrases."""
        return self.boilerplate
