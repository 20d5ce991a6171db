"""Raw files to documents: one bad record or file is set aside with its reason and place, never the end of a run."""

import email.parser
import email.policy
import gzip
import hashlib
import io
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tatara import storage
from tatara.data import docstrings
from tatara.data.curate import CurateConfig
from tatara.data.repair import decode, looks_binary
from tatara.data.sources import RawFile
from tatara.errors import StorageError

_PARAGRAPH = re.compile(r"\n[ \t]*\n\s*")
_PARQUET_BATCH = 1024


@dataclass(frozen=True)
class Document:
    """A document as it was found.

    Attributes:
        id: The user's own, or file name and position.
        text: Decoded, otherwise untouched.
        source: Name of the file that it came from.
        url: The record's own ``url``, if it has one.
        metadata: Every other column of the record.
        size: Bytes of the text, as UTF-8.
        encoding: How its bytes were read.
    """

    id: str
    text: str
    source: str
    url: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    encoding: str = "utf-8"

    @property
    def size(self) -> int:
        """Bytes of the text in UTF-8."""
        return len(self.text.encode("utf-8", errors="replace"))


@dataclass(frozen=True)
class Quarantined:
    """A record or file that could not be read.

    Attributes:
        source: The file.
        place: Byte offset or row of the record; None for the file as a whole.
        reason: What is wrong with it, one line.
        size: Bytes of the record or file.
        excerpt: How it begins.
    """

    source: str
    place: int | None
    reason: str
    size: int
    excerpt: str = ""


@dataclass(frozen=True)
class Shard:
    """Files, or parts of files, that one task reads and that become one output file."""

    index: int
    files: tuple[RawFile, ...]

    @property
    def key(self) -> str:
        """What the shard reads, as a hash: a finished shard is recognised by it after a restart."""
        parts = "\n".join(f"{file.source}\0{file.size}\0{file.start}\0{file.end}" for file in self.files)
        return hashlib.sha256(parts.encode()).hexdigest()[:16]


def plan_shards(files: Sequence[RawFile], shard_bytes: int) -> list[Shard]:
    """Cut a corpus into tasks of about ``shard_bytes``; depends on the files alone, never on the cluster.

    JSONL is cut at byte positions (a record belongs to the part in which it begins), Parquet at row groups; compressed
    files stay whole.
    """
    shards: list[Shard] = []
    current: list[RawFile] = []
    filled = 0
    for part in (part for file in files for part in _split(file, shard_bytes)):
        if current and filled + part.size > shard_bytes:
            shards.append(Shard(len(shards), tuple(current)))
            current, filled = [], 0
        current.append(part)
        filled += part.size
    if current:
        shards.append(Shard(len(shards), tuple(current)))
    return shards


def read_file(file: RawFile, config: CurateConfig) -> Iterator[Document | Quarantined]:
    """Yield what a file, or a part of one, holds, in order.

    Raises:
        StorageError: The connection to the storage failed: that says nothing about the file, so it is not set aside.
    """
    reader = {
        "jsonl": _read_jsonl, "parquet": _read_parquet, "text": _read_text, "python": _read_python,
        "description": _read_description, "topics": _read_topics,
    }[file.kind]  # fmt: skip
    try:
        yield from reader(file, config)
    except (ConnectionError, TimeoutError) as error:
        raise StorageError(f"cannot read {file.url}: {_one_line(error)}; run again to continue") from None
    # ArrowInvalid is a ValueError; a file may vanish, be cut short or not be what its name says.
    except (OSError, EOFError, ValueError, SyntaxError, RecursionError, StorageError) as error:
        yield Quarantined(file.source, None, _one_line(error), file.size)


def _split(file: RawFile, shard_bytes: int) -> Iterator[RawFile]:
    if file.size <= shard_bytes or file.compression or file.kind not in {"jsonl", "parquet"}:
        yield file
    elif file.kind == "jsonl":
        for start in range(0, file.size, shard_bytes):
            end = min(start + shard_bytes, file.size)
            yield replace(file, size=end - start, start=start, end=end)
    else:
        yield from _split_parquet(file, shard_bytes)


def _split_parquet(file: RawFile, shard_bytes: int) -> Iterator[RawFile]:
    import pyarrow.parquet

    fs, path = storage.arrow_filesystem(file.url)
    try:
        with pyarrow.parquet.ParquetFile(path, filesystem=fs) as parquet:
            sizes = [parquet.metadata.row_group(i).total_byte_size for i in range(parquet.metadata.num_row_groups)]
    except (OSError, ValueError):
        yield file  # what is wrong with it is found, and counted, when it is read
        return
    # Parts' sizes are shares of the file's bytes on disk, so that they add up to it.
    total = max(sum(sizes), 1)
    start = filled = before = 0
    for index, size in enumerate([*sizes, shard_bytes]):
        if filled and filled + size > shard_bytes:
            ahead = before + filled
            share = file.size * ahead // total - file.size * before // total
            yield replace(file, size=share, start=start, end=index)
            start, filled, before = index, 0, ahead
        filled += size


def _open(file: RawFile) -> Any:
    """A binary file object over a file's decompressed content."""
    fs, path = storage.filesystem(file.url)
    raw = fs.open(path, "rb")
    if file.compression == "gzip":
        return gzip.GzipFile(fileobj=raw)
    if file.compression == "zstd":
        import pyarrow

        return io.BufferedReader(pyarrow.CompressedInputStream(pyarrow.PythonFile(raw, "r"), "zstd"))
    return raw


def _read_jsonl(file: RawFile, config: CurateConfig) -> Iterator[Document | Quarantined]:
    with _open(file) as stream:
        offset = file.start
        if file.start:
            # The record that runs into this part belongs to the part before it.
            stream.seek(file.start - 1)
            offset += len(stream.readline()) - 1
        while file.end is None or offset < file.end:
            try:
                line = stream.readline()
            except (OSError, EOFError) as error:
                yield Quarantined(file.source, offset, f"cut short: {_one_line(error)}", 0)
                return
            if not line:
                return
            if line.strip():
                yield _json_record(line, offset, file, config)
            offset += len(line)


def _json_record(line: bytes, offset: int, file: RawFile, config: CurateConfig) -> Document | Quarantined:
    text, encoding = decode(line, config.encodings)

    def bad(reason: str) -> Quarantined:
        return Quarantined(file.source, offset, reason, len(line), text[:300])

    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        return bad(f"not JSON: {_one_line(error)}")
    if not isinstance(record, dict):
        return bad(f"a JSON {type(record).__name__} where an object is needed")
    return _record(record, str(offset), file, config, encoding) or bad(_no_text(config, record))


def _record(
    record: dict[str, Any], position: str, file: RawFile, config: CurateConfig, encoding: str = "utf-8"
) -> Document | None:
    """A document of a record with named fields; None when its text is missing or not a string."""
    rest = dict(record)
    text = rest.pop(config.text_column, None)
    if not isinstance(text, str):
        return None
    own = rest.pop(config.id_column, None)
    url = rest.pop("url", None)
    return Document(
        id=f"{file.source}#{position}" if own is None else str(own),
        # A lone surrogate is legal in JSON and in no encoding.
        text=text.encode("utf-8", errors="replace").decode("utf-8") if not text.isascii() else text,
        source=file.source,
        url=None if url is None else str(url),
        metadata=rest,
        encoding=encoding,
    )


def _no_text(config: CurateConfig, record: dict[str, Any]) -> str:
    there = ", ".join(sorted(record)[:20]) or "none"
    if config.text_column in record:
        return f"'{config.text_column}' is not a string"
    return f"no column '{config.text_column}'; columns: {there} (set text_column)"


def _read_parquet(file: RawFile, config: CurateConfig) -> Iterator[Document | Quarantined]:
    import pyarrow.parquet

    fs, path = storage.arrow_filesystem(file.url)
    with pyarrow.parquet.ParquetFile(path, filesystem=fs) as parquet:
        names = parquet.schema_arrow.names
        if config.text_column not in names:
            yield Quarantined(file.source, None, _no_text(config, dict.fromkeys(names)), file.size)
            return
        end = parquet.metadata.num_row_groups if file.end is None else file.end
        row = sum(parquet.metadata.row_group(i).num_rows for i in range(file.start))
        for batch in parquet.iter_batches(_PARQUET_BATCH, row_groups=range(file.start, end)):
            for record in batch.to_pylist():
                found = _record(record, str(row), file, config)
                yield found or Quarantined(file.source, row, _no_text(config, record), 0)
                row += 1


def _read_text(file: RawFile, config: CurateConfig) -> Iterator[Document | Quarantined]:
    with _open(file) as stream:
        raw = stream.read()
    if looks_binary(raw):
        yield Quarantined(file.source, None, "binary, not text", len(raw))
        return
    text, encoding = decode(raw, config.encodings)
    pieces = list(_pieces(text, config.document_bytes))
    for offset, piece in pieces:
        yield Document(
            file.source if len(pieces) == 1 else f"{file.source}#{offset}", piece, file.source, encoding=encoding
        )


def _pieces(text: str, limit: int) -> Iterator[tuple[int, str]]:
    """Cut a long text at paragraph ends into pieces of at least ``limit`` characters (but the last)."""
    if len(text) <= limit:
        if text.strip():
            yield 0, text
        return
    start = 0
    for match in _PARAGRAPH.finditer(text):
        if match.start() - start >= limit:
            yield start, text[start : match.start()]
            start = match.end()
    if text[start:].strip():
        yield start, text[start:]


def _read_python(file: RawFile, config: CurateConfig) -> Iterator[Document | Quarantined]:
    with _open(file) as stream:
        source = stream.read()
    header = docstrings.header_comment(source)
    if header:
        yield Document(f"{file.source}::#", header, file.source)
    seen: dict[str, int] = {}
    for name, text in docstrings.docstrings(source):
        # Overloads and conditional definitions share a name.
        seen[name] = seen.get(name, 0) + 1
        suffix = f"#{seen[name]}" if seen[name] > 1 else ""
        clean = text.encode("utf-8", errors="replace").decode("utf-8")
        yield Document(f"{file.source}::{name}{suffix}", clean, file.source)


def _read_topics(file: RawFile, config: CurateConfig) -> Iterator[Document | Quarantined]:
    with _open(file) as stream:
        for key, text in docstrings.topics(stream.read()):
            yield Document(f"{file.source}::{key}", text, file.source)


def _read_description(file: RawFile, config: CurateConfig) -> Iterator[Document | Quarantined]:
    """The long description of a package: the body of its METADATA (or, in old ones, a header)."""
    with _open(file) as stream:
        text, encoding = decode(stream.read(), config.encodings)
    message = email.parser.Parser(policy=email.policy.compat32).parsestr(text)
    body = message.get_payload()
    description = body if isinstance(body, str) and body.strip() else message.get("Description", "")
    if description.strip():
        yield Document(file.source, str(description), file.source, encoding=encoding)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
