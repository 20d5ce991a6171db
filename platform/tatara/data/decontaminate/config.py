"""Parameters of decontamination."""

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from tatara.data.steps import StepConfig


class DecontaminateConfig(StepConfig):
    """Finds items of evaluations in documents by their n-grams of words, letter case and punctuation aside.

    Characters of scripts that are written without spaces, such as Japanese, count as words.
    """

    step: ClassVar[str] = "decontaminate"
    implementation: ClassVar[str] = "tatara.data.decontaminate.step:Decontaminate"

    benchmarks: dict[str, str] = Field(min_length=1)
    """Name of each benchmark and its file, directory or glob: JSONL, JSON, CSV, TSV, Parquet or text with an item per
    line; each also as ``.gz``."""
    fields: dict[str, tuple[str, ...]] = Field({})
    """Benchmark to the keys or columns that are checked, each by itself. Default: every known name of a question
    (``question``, ``prompt``, ``input``, ...) or a solution (``solution``, ``answer``, ``code``, ...)."""
    ngram: int = Field(8, ge=5, le=32)
    """Words of an n-gram. 8 in Llama 3 (arXiv:2407.21783, section 5.1.4), 13 in GPT-3 (arXiv:2005.14165, appendix C);
    8 still finds items of which some words were replaced."""
    character_ngram: int = Field(10, ge=5, le=64)
    """Characters of an n-gram in texts that are written without spaces."""
    min_tokens: int = Field(8, ge=1)
    """Shorter texts of an item, in words, are not checked; those below ``ngram`` have to be found whole."""
    min_characters: int = Field(10, ge=1)
    """The same in characters, for texts that are written without spaces."""
    min_overlap: float = Field(0.5, ge=0, le=1)
    """A document is contaminated if one place in it covers at least this share of the words of an item's text with
    common n-grams; 0 is any single n-gram, as in GPT-3."""
    longest_overlap: float | None = Field(None, gt=0, le=1)
    """It also is if a single unbroken match covers this share; null leaves it to ``min_overlap``."""
    min_matched: int = Field(13, ge=1)
    """Words that have to match, however short the text: one n-gram alone proves nothing. A text with fewer words has to
    match whole."""
    min_matched_characters: int = Field(16, ge=1)
    """The same in characters, for texts that are written without spaces."""
    skip: int = Field(2, ge=0, le=8)
    """A match goes on past up to this many replaced words in a row, if more equal ones follow; after the skip-grams of
    Llama 2 (arXiv:2307.09288, appendix A.6). 0 turns it off."""
    max_shared_items: int = Field(10, ge=1)
    """An n-gram that more items of one benchmark share is a template (``which of the following ...``) and ignored."""
    action: Literal["drop", "remove", "annotate"] = "drop"
    """``drop`` the document, ``remove`` what matches with a ``window`` around it, or keep and ``annotate`` it."""
    window: int = Field(200, ge=0)
    """Characters that ``remove`` cuts before and after a match (200 in GPT-3, appendix C)."""
    min_piece: int = Field(200, ge=0)
    """Characters below which ``remove`` drops what is left between two cuts (200 in GPT-3)."""
    max_pieces: int = Field(10, ge=1)
    """A document that ``remove`` would cut into more pieces is dropped (10 in GPT-3)."""
    thresholds: tuple[float, ...] = (0.2, 0.5, 0.8)
    """The report counts items of which at least this share is found anywhere in the corpus (Llama 2 calls an item clean
    below 0.2 and dirty from 0.8; Llama 3 chooses the threshold for each benchmark)."""
    max_index_tokens: int = Field(100_000_000, ge=1)
    """Words of all benchmarks together, above which the run is refused; the index takes about 40 bytes for each."""

    @model_validator(mode="after")
    def _consistent(self) -> "DecontaminateConfig":
        for name in self.fields:
            if name not in self.benchmarks:
                raise ValueError(f"fields names '{name}', which is no benchmark; known: {', '.join(self.benchmarks)}")
        if not all(0 < value <= 1 for value in self.thresholds):
            raise ValueError(f"thresholds are shares above 0 and at most 1, got {list(self.thresholds)}")
        return self

    def files(self) -> tuple[str, ...]:
        """The benchmarks' paths: other items make another corpus."""
        return tuple(self.benchmarks.values())
