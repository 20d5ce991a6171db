"""Documents as Arrow tables: between passes, in the result, and the record of what was dropped."""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tatara import storage
from tatara.data.document import Document, Verdict

DOCUMENTS = pa.schema(
    [
        ("id", pa.string()), ("text", pa.large_string()), ("source", pa.string()), ("url", pa.string()),
        ("kind", pa.string()), ("language", pa.string()), ("language_score", pa.float32()),
        ("scores", pa.map_(pa.string(), pa.float32())), ("labels", pa.map_(pa.string(), pa.string())),
        ("copies", pa.int64()), ("cluster", pa.string()), ("repeats", pa.int32()), ("metadata", pa.string()),
    ]
)  # fmt: skip
"""The result. ``copies``: documents, itself included, that one stands for; ``cluster``: their name; ``repeats``: how
often training shall see it; ``metadata``: JSON."""
STORED = pa.schema(
    [*DOCUMENTS, ("encoding", pa.string()), ("content", pa.large_binary()), ("content_type", pa.string())]
)
"""Between passes."""
DECISIONS = pa.schema(
    [
        ("id", pa.string()), ("source", pa.string()), ("step", pa.string()), ("reason", pa.string()),
        ("value", pa.float64()), ("limit", pa.float64()), ("kept_id", pa.string()), ("cluster", pa.string()),
        ("language", pa.string()), ("bytes", pa.int64()),
    ]
)  # fmt: skip
"""Every dropped document: which rule, what it measured, what it allows, and for copies what stays instead."""
UNREADABLE = pa.schema(
    [
        ("source", pa.string()), ("place", pa.int64()), ("reason", pa.string()), ("size", pa.int64()),
        ("excerpt", pa.string()),
    ]
)  # fmt: skip
RECORDS = pa.schema([("step", pa.string()), ("id", pa.string()), ("record", pa.string())])
"""What steps recorded of documents, as JSON."""
ROW_GROUP_BYTES = 32_000_000


def to_table(documents: Sequence[Document], schema: pa.Schema) -> pa.Table:
    """Documents as rows of `DOCUMENTS` or `STORED`."""
    columns = [_COLUMNS[field.name](documents) for field in schema]
    return pa.Table.from_arrays(
        [pa.array(values, field.type) for values, field in zip(columns, schema, strict=True)], schema=schema
    )


def _metadata(documents: Sequence[Document]) -> list[Any]:
    return [json_text(item.metadata) if item.metadata else None for item in documents]


def json_text(value: Any) -> str:
    """A value as JSON that UTF-8 can hold."""
    return safe(json.dumps(value, ensure_ascii=False, default=str))


def json_bytes(value: Any) -> bytes:
    """A value as a JSON file."""
    return json.dumps(value, ensure_ascii=False, indent=1, default=str).encode("utf-8", "replace")


def safe(text: str) -> str:
    """Text that UTF-8 can hold: a lone surrogate is legal in JSON and in no encoding."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace").decode()
    return text


_COLUMNS: dict[str, Callable[[Sequence[Document]], list[Any]]] = {
    "id": lambda rows: [safe(item.id) for item in rows],
    "text": lambda rows: [safe(item.text) for item in rows],
    "source": lambda rows: [safe(item.source) for item in rows],
    "url": lambda rows: [item.url and safe(item.url) for item in rows],
    "kind": lambda rows: [item.kind for item in rows],
    "language": lambda rows: [item.language for item in rows],
    "language_score": lambda rows: [item.language_score for item in rows],
    "scores": lambda rows: [list(item.scores.items()) if item.scores else None for item in rows],
    "labels": lambda rows: [list(item.labels.items()) if item.labels else None for item in rows],
    "copies": lambda rows: [item.copies for item in rows],
    "cluster": lambda rows: [item.cluster for item in rows],
    "repeats": lambda rows: [item.repeats for item in rows],
    "metadata": _metadata,
    "encoding": lambda rows: [item.encoding for item in rows],
    "content": lambda rows: [item.content for item in rows],
    "content_type": lambda rows: [item.content_type and safe(item.content_type) for item in rows],
}


def from_table(table: pa.Table, first_row: int) -> list[Document]:
    """The documents of a `STORED` table, numbered from ``first_row``."""
    columns = {name: table.column(name).to_pylist() for name in table.column_names}
    documents = []
    for number, values in enumerate(zip(*columns.values(), strict=True), start=first_row):
        fields = dict(zip(columns, values, strict=True))
        fields["metadata"] = json.loads(fields["metadata"]) if fields["metadata"] else {}
        fields["scores"] = dict(fields["scores"] or ())
        fields["labels"] = dict(fields["labels"] or ())
        documents.append(Document(**fields, row=number))
    return documents


def read_batches(path: Path) -> Iterator[list[Document]]:
    """The documents of a file written with `STORED`, a row group at a time, numbered by their row."""
    first = 0
    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            table = file.read_row_group(group, use_threads=False)
            yield from_table(table, first)
            first += table.num_rows


class RowWriter:
    """Writes documents, or rows, to a Parquet file that has its name only when it is whole.

    Row groups are cut by bytes, so that they are even whatever the documents' lengths, and the reader's memory is
    bounded.
    """

    def __init__(self, path: Path, schema: pa.Schema, compression: str = "zstd") -> None:
        self._path = path
        self._partial = path.with_name(f"{path.name}.{os.getpid()}.part")
        self._schema = schema
        self._compression = compression
        self._writer: pq.ParquetWriter | None = None
        self._tables: list[pa.Table] = []
        self._held = 0

    def write(self, table: pa.Table) -> None:
        """Add rows."""
        if not table.num_rows:
            return
        self._tables.append(table)
        self._held += table.nbytes
        if self._held >= ROW_GROUP_BYTES:
            self._flush()

    def close(self) -> bool:
        """Finish the file; False when there was nothing to write, and there is none."""
        self._flush()
        if self._writer is None:
            return False
        with storage.errors_named(str(self._path), "write"):
            self._writer.close()
            os.replace(self._partial, self._path)
        return True

    def _flush(self) -> None:
        if not self._tables:
            return
        with storage.errors_named(str(self._path), "write"):
            if self._writer is None:
                self._writer = pq.ParquetWriter(self._partial, self._schema, compression=self._compression)
            table = pa.concat_tables(self._tables)
            groups = max(1, round(self._held / ROW_GROUP_BYTES))
            self._writer.write_table(table, row_group_size=-(-table.num_rows // groups))
        self._tables, self._held = [], 0


def decision(document: Document, label: str, verdict: Verdict, size: int) -> dict[str, Any]:
    """A row of `DECISIONS`."""
    return {
        "id": safe(document.id), "source": safe(document.source), "step": label, "reason": verdict.reason,
        "value": verdict.value, "limit": verdict.limit, "kept_id": verdict.kept_id and safe(verdict.kept_id),
        "cluster": verdict.cluster and safe(verdict.cluster), "language": document.language, "bytes": size,
    }  # fmt: skip
