"""Parameters of the classifiers of quality and topic, and of outliers among token distributions."""

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from tatara.config import Config
from tatara.data.steps import StepConfig


class TrainingConfig(Config):
    """How a linear classifier over hashed n-grams is trained (Joulin et al. 2017, arXiv:1607.01759, is its like)."""

    text_column: str = "text"
    """Column of the sample files that holds the text."""
    buckets: int = Field(default=1 << 20, ge=1 << 10, le=1 << 26)
    """Features; n-grams are hashed to them. Rounded up to a power of two."""
    epochs: int = Field(default=10, ge=1)
    """Passes over the samples."""
    learning_rate: float = Field(default=0.3, gt=0)
    """Step of AdaGrad (Duchi et al. 2011)."""
    held_out: float = Field(default=0.2, gt=0, lt=0.8)
    """Share of the samples that is not trained on: half of it calibrates, half measures."""
    min_samples: int = Field(default=100, ge=20)
    """A class with fewer samples is refused."""
    max_samples: int = Field(default=200_000, ge=20)
    """Samples read of each class; of more, those with the lowest hash."""
    max_characters: int = Field(default=20_000, ge=100)
    """Characters of a text that are looked at, from its beginning."""
    seed: int = 0
    """Seed of the order of samples."""


class QualityConfig(StepConfig):
    """A binary classifier: probability that a document is like the good samples, rather than the bad ones.

    Trained on references against raw web pages as in GPT-3 (Brown et al. 2020, arXiv:2005.14165, appendix A) and DCLM
    (Li et al. 2024, arXiv:2406.11794, section 4.4). List the step again with another ``label`` for toxicity or adult
    content. The probability supposes that both classes are equally frequent.
    """

    step: ClassVar[str] = "quality"
    implementation: ClassVar[str] = "tatara.data.quality.quality:Quality"

    label: str = Field(default="quality", min_length=1)
    """Name of the score."""
    good: str | None = None
    """Samples of what ``label`` means: file, directory or glob (JSONL, Parquet, text)."""
    bad: str | None = None
    """Samples of what it does not."""
    model: str | None = None
    """A model trained before (``model.npz``), instead of samples."""
    min_score: float | None = Field(default=None, ge=0, le=1)
    """Drop documents with a lower probability; null: only note it."""
    max_score: float | None = Field(default=None, ge=0, le=1)
    """Drop documents with a higher probability, for labels such as toxicity."""
    pareto_alpha: float | None = Field(default=None, gt=0)
    """Keep a document where a draw from a Lomax distribution of this shape exceeds 1 - probability, so that some of
    every quality stay: 9 in GPT-3, appendix A. The draw depends on ``seed`` and the document's id only."""
    seed: int = 0
    """Seed of the draws."""
    training: TrainingConfig = TrainingConfig()
    """How the model is trained."""

    @model_validator(mode="after")
    def _has_a_model(self) -> "QualityConfig":
        if (self.model is None) == (self.good is None and self.bad is None):
            raise ValueError("quality needs either model, or good and bad")
        if self.model is None and (self.good is None or self.bad is None):
            raise ValueError(f"quality needs {'good' if self.good is None else 'bad'} as well: samples of both classes")
        return self

    def files(self) -> tuple[str, ...]:
        """The model, or the samples."""
        return tuple(name for name in (self.model, self.good, self.bad) if name is not None)


class TopicsConfig(StepConfig):
    """A classifier with many classes, for the mixture (Llama 3, arXiv:2407.21783, section 3.1.2).

    The most probable class becomes the document's ``labels["topic"]``, its probability ``scores["topic"]``.
    """

    step: ClassVar[str] = "topics"
    implementation: ClassVar[str] = "tatara.data.quality.topics:Topics"

    label: str = Field(default="topic", min_length=1)
    """Name of the label and the score."""
    samples: dict[str, str] = Field(default_factory=dict)
    """Class to its samples: file, directory or glob (JSONL, Parquet, text)."""
    model: str | None = None
    """A model trained before (``model.npz``), instead of samples."""
    min_probability: float = Field(default=0.0, ge=0, le=1)
    """Where no class is as probable, the label is ``unknown``."""
    drop: tuple[str, ...] = ()
    """Classes whose documents are dropped."""
    training: TrainingConfig = TrainingConfig()
    """How the model is trained."""

    @model_validator(mode="after")
    def _has_a_model(self) -> "TopicsConfig":
        if (self.model is None) == (not self.samples):
            raise ValueError("topics needs either model or samples")
        if self.samples and len(self.samples) < 2:
            raise ValueError("topics needs samples of at least two classes")
        unknown = sorted(set(self.drop) - set(self.samples) - {"unknown"})
        if self.samples and unknown:
            raise ValueError(f"topics cannot drop '{unknown[0]}': no such class; known: {', '.join(self.samples)}")
        return self

    def files(self) -> tuple[str, ...]:
        """The model, or the samples."""
        return (self.model,) if self.model is not None else tuple(self.samples.values())


class OutliersConfig(StepConfig):
    """Documents whose token distribution is far from that of the others, by Kullback-Leibler divergence.

    Llama 3 (arXiv:2407.21783, section 3.1.1): documents with excessive numbers of outlier tokens.
    """

    step: ClassVar[str] = "outliers"
    implementation: ClassVar[str] = "tatara.data.quality.outliers:Outliers"

    group_by: Literal["source", "language", "all"] = "source"
    """What a document is compared with: documents of the same top directory (or file), language, or all of them."""
    max_divergence: float | None = Field(default=None, gt=0)
    """Drop documents with a larger divergence KL(document || group), nats per token; null: see ``quantile``."""
    quantile: float | None = Field(default=0.999, gt=0, lt=1)
    """Drop what lies above this quantile of its group's divergences; null: see ``max_divergence``."""
    min_tokens: int = Field(default=50, ge=1)
    """Shorter documents stay: their distributions say nothing."""
    min_documents: int = Field(default=100, ge=1)
    """Documents of smaller groups stay."""
    max_tokens: int = Field(default=10_000, ge=1, le=60_000)
    """Tokens of a document that are counted, from its beginning."""
    smoothing: float = Field(default=0.5, gt=0)
    """Added to each of a group's 65,536 counts (Laplace)."""

    @model_validator(mode="after")
    def _has_a_limit(self) -> "OutliersConfig":
        if self.max_divergence is None and self.quantile is None:
            raise ValueError("outliers needs max_divergence or quantile")
        return self
