"""How raw files are read."""

import codecs

from pydantic import Field, field_validator

from tatara.config import Config

DEFAULT_CORPUS = "python-docs"
"""Name of the corpus that is found on every machine."""


class PythonDocsConfig(Config):
    """The corpus that is found on every machine: documentation that comes with Python and its packages."""

    max_bytes: int = Field(default=150_000_000, gt=0)
    """Python source read for docstrings, bytes. Modules are chosen by a hash of their path, so that a smaller cap is
    a subset of a larger one; READMEs, licences and other text files are always read."""


class WarcConfig(Config):
    """Which records of web archives (ISO 28500) become documents: responses, resources and (WET) conversions."""

    status: tuple[int, ...] = (200,)
    """HTTP status codes of responses that are read; the others are passed over."""
    content_types: tuple[str, ...] = ("text/html", "application/xhtml+xml", "text/plain")
    """Media types that are read. A response that declares none is taken for HTML."""
    verify_digests: bool = True
    """Set records aside whose block does not fit the SHA-1 (or other) digest in their header."""


class WikiConfig(Config):
    """Which pages of MediaWiki XML dumps become documents."""

    namespaces: tuple[int, ...] = (0,)
    """Numbers of the namespaces that are read; 0 holds articles. Empty reads every one."""
    redirects: bool = False
    """Whether pages that only point to another one are read."""


class ReadConfig(Config):
    """How raw files become documents."""

    text_column: str = "text"
    """Column (Parquet) or key (JSONL) that holds the text."""
    html_column: str | None = None
    """Column or key that holds a raw page instead of text, as a string or as bytes; the step ``extract`` makes text of
    it. Null: there is none."""
    id_column: str = "id"
    """Column or key that holds the user's ids; where it is missing, ids are made of file name and position."""
    url_column: str = "url"
    """Column or key that says where a document was published."""
    language_column: str | None = None
    """Column or key that holds an ISO 639-1 code, which the step ``language`` can be told to trust. Null: there is
    none, or it is metadata like any other."""
    encodings: tuple[str, ...] = (
        "cp1252", "cp932", "euc_jp", "cp1251", "koi8_r", "gb18030", "big5", "cp949", "utf_16",
    )  # fmt: skip
    """What text may be encoded in that is not UTF-8; the first is preferred where several are equally plausible."""
    document_bytes: int = Field(default=65_536, ge=1024)
    """Plain-text files longer than this are cut at paragraph ends into documents of about this size, characters."""
    max_document_bytes: int = Field(default=20_000_000, ge=1024)
    """Larger documents are set aside with their size, bytes; what a task needs of memory depends on it."""
    max_unreadable: float | None = Field(default=None, ge=0)
    """How many records and files may be unreadable before the run fails: a share of all if below 1, else a number.
    Null: any number; the report says how many and why."""
    warc: WarcConfig = WarcConfig()
    """Web archives."""
    wiki: WikiConfig = WikiConfig()
    """MediaWiki dumps."""
    python_docs: PythonDocsConfig = PythonDocsConfig()
    """The default corpus."""

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
