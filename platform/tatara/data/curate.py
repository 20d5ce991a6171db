"""The configuration of the ``curate`` stage: every rule, its published source and its parameters."""

import codecs
from typing import Self

from pydantic import Field, field_validator, model_validator

from tatara.config import Config, operational
from tatara.stage import Stage

DEFAULT_CORPUS = "python-docs"


class PythonDocsConfig(Config):
    """The corpus that is found on every machine: documentation that comes with Python and its packages."""

    max_bytes: int = Field(default=150_000_000, gt=0)
    """Python source read for docstrings, bytes. Modules are chosen by a hash of their path, so that a smaller cap is
    a subset of a larger one; READMEs, licences and other text files are always read."""


class LengthConfig(Config):
    """Documents too short to judge. Counted in characters, so that it holds for languages without word spaces."""

    enabled: bool = True
    """Whether the rule runs."""
    min_characters: int = Field(default=100, ge=0)
    """Shortest document kept, characters."""


class LanguageConfig(Config):
    """Language identification by fastText's lid.176 (Joulin et al. 2016, arXiv:1607.01759), offline."""

    enabled: bool = True
    """Whether the rule runs."""
    keep: tuple[str, ...] = ("en",)
    """ISO 639-1 codes kept; empty keeps every language."""
    min_score: float = Field(default=0.5, ge=0, le=1)
    """Lowest probability of the best label (0.5 in CCNet, Wenzek et al. 2020; 0.65 in FineWeb)."""
    max_characters: int = Field(default=1000, gt=0)
    """How much of a document is shown to the model, characters."""


class C4Config(Config):
    """Document rules of C4 (Raffel et al. 2020, arXiv:1910.10683, section 2.2)."""

    enabled: bool = True
    """Whether the rules run."""
    min_sentences: int = Field(default=3, ge=0)
    """Fewest sentences; the paper says 3, its released code 5."""
    drop_lorem_ipsum: bool = True
    """Drop documents that hold the placeholder text "lorem ipsum"."""
    drop_curly_bracket: bool = False
    """Drop documents that hold "{", as C4 does to be rid of code. Off: documentation shows code on purpose."""


class GopherQualityConfig(Config):
    """Quality rules of Gopher (Rae et al. 2021, arXiv:2112.11446, appendix A.1.1)."""

    enabled: bool = True
    """Whether the rules run."""
    min_words: int = Field(default=50, ge=0)
    """Fewest words."""
    max_words: int = Field(default=100_000, gt=0)
    """Most words."""
    min_mean_word_length: float = 3.0
    """Lowest mean word length, characters."""
    max_mean_word_length: float = 10.0
    """Highest mean word length, characters."""
    max_symbol_ratio: float = 0.1
    """Most "#" and, counted apart, most ellipses per word."""
    max_bullet_lines: float = 0.9
    """Largest fraction of lines that start with a bullet."""
    max_ellipsis_lines: float = 0.3
    """Largest fraction of lines that end with an ellipsis."""
    min_alphabetic_words: float = 0.8
    """Smallest fraction of words that hold a letter."""
    min_stop_words: int = Field(default=2, ge=0, le=8)
    """How many of the, be, to, of, and, that, have, with must occur."""


class GopherRepetitionConfig(Config):
    """Repetition rules of Gopher (Rae et al. 2021, arXiv:2112.11446, table A1)."""

    enabled: bool = True
    """Whether the rules run."""
    max_duplicate_lines: float = 0.3
    """Largest fraction of lines that repeat an earlier line."""
    max_duplicate_paragraphs: float = 0.3
    """Largest fraction of paragraphs that repeat an earlier paragraph."""
    max_duplicate_line_characters: float = 0.2
    """Largest fraction of characters in repeated lines."""
    max_duplicate_paragraph_characters: float = 0.2
    """Largest fraction of characters in repeated paragraphs."""
    max_top_ngram: tuple[float, float, float] = (0.2, 0.18, 0.16)
    """Largest fraction of characters in the most frequent 2-, 3- and 4-gram of words."""
    max_duplicate_ngrams: tuple[float, float, float, float, float, float] = (0.15, 0.14, 0.13, 0.12, 0.11, 0.1)
    """Largest fraction of characters in repeated 5- to 10-grams of words."""


class DedupConfig(Config):
    """Exact and fuzzy deduplication: MinHash with LSH (Broder 1997; Lee et al. 2022, arXiv:2107.06499)."""

    exact: bool = True
    """Drop documents whose text, case-folded and with white space collapsed, occurred before."""
    fuzzy: bool = True
    """Drop near-duplicates."""
    ngram: int = Field(default=5, ge=1)
    """Words per shingle; a character counts as a word in scripts without word spaces."""
    bands: int = Field(default=20, ge=1)
    """LSH bands. A pair of Jaccard similarity s becomes a candidate with probability 1 - (1 - s^rows)^bands."""
    rows: int = Field(default=6, ge=1)
    """Signature components per band."""
    threshold: float = Field(default=0.8, gt=0, le=1)
    """Jaccard similarity of two documents' shingle sets from which they count as near-duplicates."""
    margin: float = Field(default=0.03, ge=0, lt=1)
    """A candidate pair is confirmed when the signatures' agreement is at least threshold - margin. About one standard
    error of the estimate: a larger margin misses fewer pairs and drops more documents that are less alike."""
    seed: int = 1
    """Seed of the signatures."""

    @property
    def permutations(self) -> int:
        """Signature components used."""
        return self.bands * self.rows

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.permutations > 1024:
            raise ValueError(f"bands x rows = {self.permutations} is more than 1024 signature components")
        return self


class CurateConfig(Config):
    """From raw text to clean, unique documents."""

    corpus: str = operational(DEFAULT_CORPUS)
    """``python-docs``, or a file, directory, glob or URL of .jsonl, .parquet, .txt, .md or .rst files (.gz and .zst
    too). Its content, not its place, decides whether the stage runs again."""
    text_column: str = "text"
    """Column (Parquet) or key (JSONL) that holds the text."""
    id_column: str = "id"
    """Column or key that holds the user's ids; where it is missing, ids are made of file name and position."""
    python_docs: PythonDocsConfig = PythonDocsConfig()
    """The default corpus."""
    encodings: tuple[str, ...] = (
        "cp1252", "cp932", "euc_jp", "cp1251", "koi8_r", "gb18030", "big5", "cp949", "utf_16",
    )  # fmt: skip
    """What text may be encoded in that is not UTF-8; the first is preferred where several are equally plausible."""
    repair: bool = True
    """Repair mojibake, control characters and the like with ftfy."""
    document_bytes: int = Field(default=65_536, ge=1024)
    """Plain-text files longer than this are cut at paragraph ends into documents of about this size, bytes."""
    length: LengthConfig = LengthConfig()
    """Length rule."""
    language: LanguageConfig = LanguageConfig()
    """Language rule."""
    c4: C4Config = C4Config()
    """C4 rules."""
    gopher_quality: GopherQualityConfig = GopherQualityConfig()
    """Gopher quality rules."""
    gopher_repetition: GopherRepetitionConfig = GopherRepetitionConfig()
    """Gopher repetition rules."""
    dedup: DedupConfig = DedupConfig()
    """Deduplication."""
    shard_bytes: int = Field(default=12_000_000, gt=0)
    """Raw bytes per task and per output file. Fixes where shards begin, whatever the cluster's size."""
    samples: int = Field(default=5, ge=0)
    """Dropped documents kept per reason, for the report."""

    @field_validator("encodings")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            try:
                codecs.lookup(name)
            except LookupError:
                raise ValueError(f"Python knows no encoding {name!r}") from None
        if not names:
            raise ValueError("at least one encoding is needed")
        return names


STAGE = Stage(
    name="curate",
    kind="documents",
    config=CurateConfig,
    inputs={},
    run="tatara.data.curate_run:run",
    sources="tatara.data.sources:identity",
    extra="data",
)
