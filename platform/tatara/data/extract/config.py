"""Configuration of the step that turns raw web pages into text."""

from typing import ClassVar, Literal

from pydantic import Field

from tatara.data.steps import StepConfig


class ExtractConfig(StepConfig):
    """Extraction of a page's main text; documents that are text already pass untouched."""

    step: ClassVar[str] = "extract"
    implementation: ClassVar[str] = "tatara.data.extract.step:ExtractStep"

    library: Literal["tatara", "trafilatura", "resiliparse"] = "tatara"
    """What extracts: our own extractor, or an installed library with its own rules (which then ignores
    ``threshold``, and keeps of tables, code and mathematics what it can)."""
    threshold: float = Field(0.5, ge=0.0, le=1.0)
    """Probability of being main text from which a block is kept; lower keeps more, higher is stricter."""
    min_characters: int = Field(1, ge=0)
    """Pages of which less text is found are dropped. Characters."""
    max_bytes: int = Field(20_000_000, ge=1)
    """What is read of one page; the rest is cut off. Bytes."""
    tables: bool = True
    """Keep tables, a row per line, cells separated by `` | ``."""
    code: bool = True
    """Keep preformatted blocks as they are, between lines of three backticks."""
    mathematics: bool = True
    """Write formulas of MathML, MathJax, KaTeX and of images of formulas as LaTeX between dollar signs."""
    lists: bool = True
    """Mark list items with ``- `` or their number."""
    headings: bool = False
    """Mark headings with ``#`` signs, as many as the heading's level."""
    links: bool = False
    """Write the address after a link's text, as in Markdown."""
    comments: bool = False
    """Keep readers' comments."""
