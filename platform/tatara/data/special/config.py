"""Parameters of kind detection and of the rules for code and mathematics."""

from typing import ClassVar

from pydantic import Field

from tatara.data.steps import Selection, StepConfig


class KindConfig(StepConfig):
    """Says whether a document is text, code or mathematics, so that later steps can select by ``kinds``."""

    step: ClassVar[str] = "kind"
    implementation: ClassVar[str] = "tatara.data.special.kind:Kind"
    light: ClassVar[bool] = True

    by_name: bool = True
    """Trust the suffix of the file's name (metadata such as ``path``, the source, the URL) and metadata that name a
    programming language."""
    by_content: bool = True
    """Look at the text where names say nothing."""
    min_code: float = Field(default=0.2, ge=0, le=1)
    """Code has at least this share of its characters in lines dense in brackets, operators and semicolons."""
    max_prose: float = Field(default=0.1, ge=0, le=1)
    """Code has at most this share of its characters in long lines of words; documentation with examples has more."""
    min_formulas: float = Field(default=5.0, ge=0)
    """Mathematics has at least this many LaTeX commands, pairs of dollar signs and operators of Unicode per 1,000
    characters. OpenWebMath (Paster et al. 2023, arXiv:2310.06786, section 3.1) looks for such signs, too."""


class CodeConfig(StepConfig):
    """Rules for source files; null turns a limit off.

    They are those of Codex (Chen et al. 2021, arXiv:2107.03374, section 3.1), The Stack (Kocetkov et al. 2022,
    arXiv:2211.15533), SantaCoder (Ben Allal et al. 2023, arXiv:2301.03988) and StarCoder (Li et al. 2023,
    arXiv:2305.06161, section 3).
    """

    step: ClassVar[str] = "code"
    implementation: ClassVar[str] = "tatara.data.special.code:Code"

    only: Selection = Selection(kinds=("code",))
    """Which documents the step looks at."""
    licences: tuple[str, ...] | None = (
        "0BSD", "AFL-3.0", "Apache-1.1", "Apache-2.0", "Artistic-2.0", "BlueOak-1.0.0", "BSD", "BSD-2-Clause",
        "BSD-3-Clause", "BSD-4-Clause", "BSL-1.0", "CC-BY-3.0", "CC-BY-4.0", "CC0-1.0", "CNRI-Python", "curl",
        "ECL-2.0", "FTL", "HPND", "ICU", "ISC", "Libpng", "MIT", "MIT-0", "MulanPSL-2.0", "NCSA", "OFL-1.1",
        "OpenSSL", "PHP-3.01", "PostgreSQL", "PSF-2.0", "Public-Domain", "Python-2.0", "Ruby", "Unicode-3.0",
        "Unicode-DFS-2016", "Unlicense", "UPL-1.0", "W3C", "WTFPL", "X11", "Zlib", "ZPL-2.1",
    )  # fmt: skip
    """SPDX identifiers that are allowed, case aside: permissive ones, as in The Stack (section 3.1). A licence is taken
    from metadata, an SPDX header or a notice at the top. null: any."""
    keep_unknown_licence: bool = True
    """Keep files whose licence cannot be told."""
    drop_generated: bool = True
    """Drop files that say they were generated, lock files, minified files (as GitHub's Linguist knows them)."""
    drop_vendored: bool = True
    """Drop copies of other projects: ``node_modules/``, ``vendor/``, ``third_party/`` and their like."""
    max_line_length: int | None = 1000
    """Longest line, characters (Codex; The Stack). Not for markup and data."""
    max_mean_line_length: float | None = 100
    """Mean of all lines, characters (Codex; The Stack). Not for markup and data."""
    min_alphanumeric: float | None = 0.25
    """Share of letters and digits (The Stack)."""
    min_alphabetic: float | None = 0.25
    """Share of letters (StarCoder)."""
    max_encoded_run: int | None = 1024
    """Longest run that may be base64 or hexadecimal, characters (StarCoder 2, Lozhkov et al. 2024,
    arXiv:2402.19173)."""
    drop_xml: bool = True
    """Drop files with ``<?xml version=`` among their first 100 characters, XSLT excepted (StarCoder)."""
    min_visible_html: float | None = 0.2
    """Share of visible text in HTML; there have to be 100 characters of it, too (StarCoder)."""
    min_data_characters: int | None = 50
    """Least length of JSON and YAML (StarCoder)."""
    max_data_characters: int | None = 5000
    """Greatest length of JSON and YAML: longer ones are data (StarCoder)."""
    min_data_alphabetic: float | None = 0.5
    """Share of letters in JSON and YAML (StarCoder)."""
    min_comment_ratio: float | None = None
    """Share of characters in comments; SantaCoder demands 0.01 of Python, Java and JavaScript."""
    max_comment_ratio: float | None = 0.8
    """Share of characters in comments (SantaCoder)."""
    syntax: bool = True
    """Drop Python (not Python 2) and JSON that do not parse."""
    max_parse_bytes: int = 200_000
    """Longer files are not parsed, because that takes long."""
    max_unbalanced: float | None = 0.05
    """Share of brackets without a partner, in languages like C. Conditional compilation leaves some open."""


class MathematicsConfig(StepConfig):
    """Rules for mathematical text; formulas stay as they are; null turns a limit off.

    In the manner of OpenWebMath (Paster et al. 2023, arXiv:2310.06786, section 3), where formulas are kept as LaTeX and
    pages that lost them are dropped; the limits are our own.
    """

    step: ClassVar[str] = "mathematics"
    implementation: ClassVar[str] = "tatara.data.special.mathematics:Mathematics"

    only: Selection = Selection(kinds=("mathematics",))
    """Which documents the step looks at."""
    max_broken: float | None = Field(default=0.1, ge=0, le=1)
    """Share of delimiters (dollar signs, ``\\(``, ``\\[``, ``\\begin``) without a partner, or of formulas whose braces
    do not pair. More, and at least three, mean that the formulas were torn when text was extracted."""
    max_empty: float | None = Field(default=0.2, ge=0, le=1)
    """Share of formulas that are empty: what is left where formulas were pictures or scripts."""
    max_formulas: float | None = Field(default=0.97, ge=0, le=1)
    """Share of characters inside of formulas."""
    max_numbers: float | None = Field(default=0.5, ge=0, le=1)
    """Share of digits among characters that are not blank: tables, dumps of numbers."""
    min_words: int | None = Field(default=1, ge=0)
    """Words (three letters or more; in scripts without spaces, a third of the characters) outside of formulas."""
