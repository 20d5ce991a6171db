"""One file of a corpus, as all readers know it."""

import os
from dataclasses import dataclass
from typing import Literal

FileKind = Literal["jsonl", "json", "parquet", "text", "html", "warc", "wiki", "python", "description", "topics"]

COMPRESSIONS = {".gz": "gzip", ".zst": "zstd", ".bz2": "bzip2", ".xz": "xz"}
"""Suffix to how a file is compressed."""

KINDS: dict[str, FileKind] = {
    ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".parquet": "parquet",
    ".txt": "text", ".md": "text", ".rst": "text",
    ".html": "html", ".htm": "html", ".xhtml": "html", ".xht": "html",
    ".warc": "warc", ".wet": "warc", ".xml": "wiki",
}  # fmt: skip
"""Suffix, before that of the compression, to what reads the file."""


@dataclass(frozen=True)
class RawFile:
    """One file of a corpus, or a part of one.

    Attributes:
        url: Where it is.
        source: Its name in documents' ``source`` and in generated ids; does not depend on the machine.
        kind: How documents are read from it.
        size: Bytes on disk, of the whole file or the part.
        start: First byte (JSONL; gzip WARC: of the compressed file) or row group (Parquet) of the part.
        end: First byte or row group after the part; None reads to the end.
        etag: What an object store says of its content.
    """

    url: str
    source: str
    kind: FileKind
    size: int
    start: int = 0
    end: int | None = None
    etag: str | None = None

    @property
    def compression(self) -> str | None:
        """``gzip``, ``zstd``, ``bzip2``, ``xz`` or None, by the file's name."""
        return COMPRESSIONS.get(os.path.splitext(self.source)[1].lower())


def kind_of(name: str) -> FileKind | None:
    """What reads a file of this name; None if nothing does."""
    stem, suffix = os.path.splitext(name.lower())
    if suffix not in COMPRESSIONS:
        return KINDS.get(suffix)
    kind = KINDS.get(os.path.splitext(stem)[1])
    # Parquet compresses inside.
    return None if kind == "parquet" else kind


def suffix_of(name: str) -> str:
    """A file's suffix, with that before the compression's: ``.tar.gz``."""
    stem, suffix = os.path.splitext(name.lower())
    return os.path.splitext(stem)[1] + suffix if suffix in COMPRESSIONS else suffix
