"""A document on its way through curation, and the verdict of a step that drops it."""

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Verdict:
    """Why a document is dropped.

    Attributes:
        reason: The rule: name of the step and, after a dot, the configuration key that relaxes it.
        value: What was measured; None where there is nothing to measure.
        limit: What the configuration allows.
        kept_id: The document that stays in its place, for duplicates.
        cluster: Which cluster of copies it belongs to.
    """

    reason: str
    value: float | None = None
    limit: float | None = None
    kept_id: str | None = None
    cluster: str | None = None


def _no_counts() -> defaultdict[str, int]:
    return defaultdict(int)


@dataclass(slots=True)
class Document:
    """A document; steps may change everything but ``id``, ``source`` and ``row``.

    Attributes:
        id: The user's own, or name of the file and position in it.
        text: Its text; empty while ``content`` waits for extraction.
        source: Name of the file that it came from.
        url: Where it was published.
        metadata: Every other column of the record.
        encoding: How its bytes were read.
        content: A raw page (HTML, XHTML) whose text has not been extracted yet.
        content_type: What the page was declared as, such as ``text/html; charset=shift_jis``.
        kind: ``text``, ``code`` or ``mathematics``.
        language: ISO 639-1 code; None before identification.
        language_score: Probability of the language.
        scores: What models say of it, by the step's name.
        labels: Classes, such as its topic, by the step's name.
        copies: How many documents it stands for, itself included.
        cluster: Its cluster of copies, if it stands for any.
        repeats: How often training shall see it in one epoch of the mixture.
        row: Its place in its shard, among the documents that were read; set by the pipeline.
        counts: What steps did to it, summed up for the report, such as ``pii.email`` to 2.
        records: (step, figures) to be stored with its id, such as what a benchmark item matched.
    """

    id: str
    text: str
    source: str
    url: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    encoding: str = "utf-8"
    content: bytes | None = None
    content_type: str | None = None
    kind: str = "text"
    language: str | None = None
    language_score: float | None = None
    scores: dict[str, float] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    copies: int = 1
    cluster: str | None = None
    repeats: int = 1
    row: int = -1
    counts: defaultdict[str, int] = field(default_factory=_no_counts)
    records: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    _words: tuple[str, list[str]] | None = field(default=None, init=False, repr=False, compare=False)
    _lines: tuple[str, list[str]] | None = field(default=None, init=False, repr=False, compare=False)
    _size: tuple[str, int] | None = field(default=None, init=False, repr=False, compare=False)

    @property
    def size(self) -> int:
        """Bytes of the text in UTF-8, or of the raw page."""
        if self.content is not None:
            return len(self.content)
        if self.text.isascii():
            return len(self.text)
        if self._size is None or self._size[0] is not self.text:
            self._size = (self.text, len(self.text.encode("utf-8", errors="replace")))
        return self._size[1]

    @property
    def words(self) -> list[str]:
        """The text split at white space; computed once for each text."""
        if self._words is None or self._words[0] is not self.text:
            self._words = (self.text, self.text.split())
        return self._words[1]

    @property
    def lines(self) -> list[str]:
        """The text's lines that are not blank, stripped; computed once for each text."""
        if self._lines is None or self._lines[0] is not self.text:
            self._lines = (self.text, [line for line in map(str.strip, self.text.split("\n")) if line])
        return self._lines[1]


@dataclass(frozen=True)
class Quarantined:
    """A record or file that could not be read.

    Attributes:
        source: The file.
        place: Byte offset (in the decompressed stream, unless the reason says otherwise) or row of the record; None
            for the file as a whole.
        reason: What is wrong with it, one line.
        size: Bytes of the record or file.
        excerpt: How it begins.
    """

    source: str
    place: int | None
    reason: str
    size: int
    excerpt: str = ""
