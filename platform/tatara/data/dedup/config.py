"""Parameters of the deduplication steps."""

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from tatara.config import operational
from tatara.data.steps import StepConfig

Keep = Literal["longest", "shortest", "oldest", "newest", "best_score", "first"]


class DedupConfig(StepConfig):
    """What all deduplication has in common: which document of a cluster stays."""

    keep: Keep = "longest"
    """Which document of a cluster stays: ``longest`` or ``shortest`` text, ``oldest`` or ``newest`` by ``keep_by``,
    ``best_score``: the highest score of the step named by ``keep_by``, or ``first`` in the order of the corpus. Ties
    are broken by a hash of the id."""
    keep_by: str | None = None
    """For ``oldest`` and ``newest``: the metadata column with a date (ISO 8601) or number; without it, the order of
    the corpus. For ``best_score``: the step that gave the score. A document without it comes last."""

    @model_validator(mode="after")
    def _score_named(self) -> Self:
        if self.keep == "best_score" and not self.keep_by:
            raise ValueError("keep: best_score needs keep_by, the name of the step that gave the score")
        return self


class UrlDedupConfig(DedupConfig):
    """One document per URL (Llama 3, arXiv:2407.21783, section 3.1.1: the most recent version of each URL stays)."""

    step: ClassVar[str] = "url_dedup"
    implementation: ClassVar[str] = "tatara.data.dedup.url:UrlDedup"

    strip_query: bool = False
    """Whether everything after "?" is ignored; otherwise only parameters that track visitors are (utm_*, gclid, ...)
    and the others are sorted."""
    against: tuple[str, ...] = ()
    """Directories of indexes that earlier runs of this step published: what matches one of theirs is dropped."""

    def files(self) -> tuple[str, ...]:
        """The indexes."""
        return self.against


class ExactDedupConfig(DedupConfig):
    """One document per text, by a hash of 128 bits (XXH3)."""

    step: ClassVar[str] = "exact_dedup"
    implementation: ClassVar[str] = "tatara.data.dedup.exact:ExactDedup"

    ignore_case: bool = True
    """Whether texts that differ in case only are the same."""
    ignore_space: bool = True
    """Whether texts that differ in white space only are the same."""
    against: tuple[str, ...] = ()
    """Directories of indexes that earlier runs of this step published: what matches one of theirs is dropped."""

    def files(self) -> tuple[str, ...]:
        """The indexes."""
        return self.against


class LineDedupConfig(StepConfig):
    """Lines that occur too often are dropped from the documents (CCNet, Wenzek et al. 2020, section 3.1).

    Llama 3 (arXiv:2407.21783, section 3.1.1) drops lines that occur more than 6 times in a bucket of 30M documents.
    Lines without a letter or digit always stay.
    """

    step: ClassVar[str] = "line_dedup"
    implementation: ClassVar[str] = "tatara.data.dedup.line:LineDedup"

    max_count: int = Field(default=6, ge=1)
    """Occurrences of a line in a bucket up to which it stays (Llama 3: 6)."""
    bucket_documents: int = Field(default=30_000_000, ge=1)
    """Documents per bucket (Llama 3: 30M). A document's bucket follows from a hash of its id."""
    min_line_characters: int = Field(default=1, ge=0)
    """Lines shorter than this, stripped, always stay: braces of code, for example. In characters."""
    keep_first: bool = False
    """Whether a line stays in the first document that holds it."""
    min_characters: int = Field(default=100, ge=0)
    """Documents of which less than this is left are dropped, if they lost a line. In characters."""


class FuzzyDedupConfig(DedupConfig):
    """Near-duplicates by MinHash and locality-sensitive hashing (Broder 1997; Lee et al. 2022, arXiv:2107.06499)."""

    step: ClassVar[str] = "fuzzy_dedup"
    implementation: ClassVar[str] = "tatara.data.dedup.fuzzy:FuzzyDedup"

    threshold: float = Field(default=0.8, gt=0, lt=1)
    """Jaccard similarity of two documents' shingles from which they are near-duplicates."""
    ngram: int = Field(default=5, ge=1, le=64)
    """Words per shingle; a character counts as a word in scripts without word spaces (5: Lee et al. 2022)."""
    permutations: int = Field(default=120, ge=16, le=1024)
    """Components of a signature (FineWeb: 112)."""
    bands: int | None = Field(default=None, ge=1)
    """Bands of the signature; two documents become candidates if they agree in all rows of one band. Null: chosen,
    with the rows, so that the least of what is asked for by ``threshold`` is missed or checked in vain."""
    rows: int | None = Field(default=None, ge=1)
    """Components per band."""
    false_negative_weight: float = Field(default=0.998, gt=0, lt=1)
    """When bands are chosen: weight of pairs above the threshold that do not become candidates; the rest of 1 weighs
    pairs below it that do. High, since candidates are checked: at a threshold of 0.8 and 120 permutations, 20 bands of
    6 rows miss 0.2 % of pairs right at the threshold."""
    margin: float = Field(default=0.05, ge=0, lt=1)
    """A candidate pair is confirmed if its signatures agree in at least ``threshold - margin`` of their components.
    About 1.5 standard errors of the estimate: more of it misses fewer pairs and takes in more that are less alike."""
    seed: int = 1
    """Seed of the signatures."""
    against: tuple[str, ...] = ()
    """Directories of indexes that earlier runs of this step published: what matches one of theirs is dropped."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if (self.bands is None) != (self.rows is None):
            raise ValueError("bands and rows: give both or neither")
        if self.bands is not None and self.rows is not None and self.bands * self.rows > self.permutations:
            raise ValueError(f"bands x rows = {self.bands * self.rows} is more than {self.permutations} permutations")
        if self.bands is not None and self.bands > 255:
            raise ValueError(f"bands = {self.bands} is more than 255")
        if self.margin >= self.threshold:
            raise ValueError("margin must be below threshold")
        return self

    def files(self) -> tuple[str, ...]:
        """The indexes."""
        return self.against


class SemanticDedupConfig(DedupConfig):
    """Documents of like meaning (SemDeDup, Abbas et al. 2023, arXiv:2303.09540)."""

    step: ClassVar[str] = "semantic_dedup"
    implementation: ClassVar[str] = "tatara.data.dedup.semantic:SemanticDedup"

    threshold: float = Field(default=0.9, gt=0, lt=1)
    """Cosine similarity of two documents' embeddings from which one of them is dropped (1 - epsilon in the paper)."""
    embedding: str = "tatara.data.dedup.embed:hashed"
    """``module:function`` that turns a list of texts into float32 ``[texts, dimensions]``; the default adds up hashed
    words and character n-grams. Each text's embedding must not depend on the others."""
    model: str | None = None
    """Directory of a Hugging Face encoder, used instead of ``embedding``: the mean of its last hidden states."""
    max_tokens: int = Field(default=512, ge=8)
    """Of each text, what the encoder reads, tokens."""
    documents_per_cluster: int = Field(default=1000, ge=1)
    """Documents per k-means cluster, on average; only documents of one cluster are compared."""
    clusters: int | None = Field(default=None, ge=1)
    """Clusters of k-means; null: from ``documents_per_cluster``."""
    sample: int = Field(default=64, ge=1)
    """Documents per cluster from which the centroids are found, chosen by a hash of their ids."""
    iterations: int = Field(default=20, ge=1)
    """Iterations of k-means."""
    seed: int = 1
    """Seed of k-means' first centroids."""
    batch: int = operational(32, ge=1)
    """Texts per call of an encoder."""

    def files(self) -> tuple[str, ...]:
        """The encoder."""
        return (self.model,) if self.model else ()
