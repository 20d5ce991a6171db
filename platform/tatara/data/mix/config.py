"""Weights, caps and totals of a mixture of sources."""

from typing import Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from tatara.config import Config, operational
from tatara.data.steps import StepConfig

OTHER = "other"
"""What documents of no source are called."""


class MixSource(Config):
    """A group of documents."""

    match: tuple[str, ...] = ("*",)
    """Shell patterns over a document's source; one of them must fit."""
    label: str | None = None
    """A class that an earlier step has given to the document, such as ``topics=science``; a shell pattern may stand
    for the class. It must fit besides ``match``."""
    weight: float | None = Field(default=None, ge=0)
    """Share of the mixture's tokens, relative to the other weights. Given for all sources or for none; without
    weights, sources keep their natural shares."""
    max_epochs: float | None = Field(default=None, gt=0)
    """How often a document of the source is seen at most; ``max_epochs`` of the mixture if it is not given."""
    max_tokens: int | None = Field(default=None, gt=0)
    """Tokens that the source contributes at most."""

    @field_validator("match", mode="before")
    @classmethod
    def _one(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("label")
    @classmethod
    def _named(cls, value: str | None) -> str | None:
        if value is not None and not all(value.partition("=")[::2]):
            raise ValueError(f"{value!r} is not of the form step=class, such as topics=science")
        return value


class MixConfig(StepConfig):
    """Down-sample and repeat documents so that sources have given shares of the tokens.

    Whether a document stays depends on a hash of its id alone, so a smaller rate keeps a subset of what a larger one
    keeps, and how the corpus is cut into shards makes no difference.
    """

    step: ClassVar[str] = "mix"
    implementation: ClassVar[str] = "tatara.data.mix.step:MixStep"

    sources: dict[str, MixSource] = Field(default_factory=dict)
    """The sources by name; a document belongs to the first that fits it."""
    table: str | None = operational(None)
    """A CSV, YAML or Parquet file that holds the sources instead: columns ``name``, ``match``, ``label``, ``weight``,
    ``max_epochs``, ``max_tokens``, of which only the first is needed. Its content decides whether the step is done
    again."""
    other: MixSource | None = None
    """What becomes of documents of no source: they form one called ``other`` (with ``weight: 0`` they are dropped). If
    it is not given, such a document is an error."""
    target_tokens: int | None = Field(default=None, gt=0)
    """Tokens of the mixture, repetitions counted. If it is not given, as many as the scarcest source allows while all
    weights are met."""
    max_epochs: float = Field(default=1.0, gt=0)
    """How often any document is seen at most. Up to 4 epochs are about as good as new text (Muennighoff et al. 2023,
    arXiv:2305.16264, section 6)."""
    unmet: Literal["renormalise", "error"] = "renormalise"
    """What happens when a source is too small for its weight: the others share what is lacking in proportion to their
    weights, as far as their own caps allow, or the run stops."""
    bytes_per_token: dict[str, float] = Field(default_factory=lambda: {OTHER: 4.0})
    """Bytes that a token stands for, by language (ISO 639-1), with ``other`` for those that are not named; the
    ``tokenize`` stage reports them. Tokens are estimated with it, one more for each document's end."""
    tokenizer: str | None = operational(None)
    """A directory with a ``tokenizer.json`` that tokens are counted with, instead of an estimate."""
    seed: int = 1
    """Chooses which documents stay."""

    @field_validator("bytes_per_token")
    @classmethod
    def _complete(cls, value: dict[str, float]) -> dict[str, float]:
        if any(each <= 0 for each in value.values()):
            raise ValueError("bytes per token must be more than 0")
        return {OTHER: 4.0, **value}

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if bool(self.sources) == (self.table is not None):
            raise ValueError("a mixture needs its sources, or a table of them: give one of 'sources' and 'table'")
        if OTHER in self.sources:
            raise ValueError(f"a source cannot be called '{OTHER}': that is what 'other' is for")
        if self.sources:
            check_weights({**self.sources, **({OTHER: self.other} if self.other else {})})
        return self

    def files(self) -> tuple[str, ...]:
        """The table and the tokenizer."""
        return tuple(filter(None, (self.table, f"{self.tokenizer}/tokenizer.json" if self.tokenizer else None)))


def check_weights(sources: dict[str, MixSource]) -> None:
    """Raise a ValueError unless all sources have weights, or none has, and one weight is more than 0."""
    weights = {name: source.weight for name, source in sources.items()}
    # A group that is left out needs no weights elsewhere.
    given = {name: weight for name, weight in weights.items() if weight is not None}
    lacking = [name for name in weights if name not in given]
    if lacking and any(weight > 0 for weight in given.values()):
        raise ValueError(f"source '{lacking[0]}' has no weight: give all sources one, or none")
    if not lacking and not any(given.values()):
        raise ValueError("every source has weight 0: nothing would be left")
