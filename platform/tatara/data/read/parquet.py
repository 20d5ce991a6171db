"""Parquet files: one record in each row."""

import contextlib
from collections.abc import Iterator
from typing import Any

from tatara import storage
from tatara.data.document import Document, Quarantined
from tatara.data.raw_file import RawFile
from tatara.data.read.config import ReadConfig
from tatara.data.read.records import document_of, no_text
from tatara.data.read.streams import is_connection_error

_BATCH_ROWS = 1024
_BATCH_BYTES = 16_000_000


def read_parquet(file: RawFile, config: ReadConfig) -> Iterator[Document | Quarantined]:
    """The rows of a Parquet file, or of some of its row groups."""
    with open_parquet(file) as parquet:
        wrong = _wrong_columns(parquet.schema_arrow, config)
        if wrong:
            if file.start == 0:
                yield Quarantined(file.source, None, wrong, file.size)
            return
        end = parquet.metadata.num_row_groups if file.end is None else file.end
        row = sum(parquet.metadata.row_group(i).num_rows for i in range(file.start))
        for group in range(file.start, end):
            yield from _row_group(parquet, group, row, file, config)
            row += parquet.metadata.row_group(group).num_rows


@contextlib.contextmanager
def open_parquet(file: RawFile) -> Iterator[Any]:
    """A file as a ``pyarrow.parquet.ParquetFile``."""
    import pyarrow.parquet

    fs, path = storage.filesystem(file.url)
    with contextlib.ExitStack() as stack:
        # Not through Arrow's own wrapper of fsspec, which takes a lost connection for a missing file.
        place = path if storage.is_local(file.url) else stack.enter_context(fs.open(path, "rb"))
        yield stack.enter_context(pyarrow.parquet.ParquetFile(place, pre_buffer=False))


def _row_group(
    parquet: Any, group: int, row: int, file: RawFile, config: ReadConfig
) -> Iterator[Document | Quarantined]:
    metadata = parquet.metadata.row_group(group)
    rows = max(1, min(_BATCH_ROWS, _BATCH_BYTES * metadata.num_rows // max(metadata.total_byte_size, 1)))
    end = row + metadata.num_rows
    try:
        for batch in parquet.iter_batches(rows, row_groups=[group], use_threads=False):
            for record in _records(batch):
                found = record if isinstance(record, str) else document_of(record, str(row), file, config)
                yield Quarantined(file.source, row, found, 0) if isinstance(found, str) else found
                row += 1
    except (OSError, ValueError) as error:
        if is_connection_error(error):
            raise
        # A damaged page costs the rest of its row group, not the file.
        reason = f"rows up to {end - 1} of row group {group} cannot be read: {' '.join(str(error).split())[:300]}"
        yield Quarantined(file.source, row, reason, 0)


def _records(batch: Any) -> Iterator[dict[str, Any] | str]:
    """The rows of a batch, each as a dictionary or as what is wrong with it."""
    try:
        yield from batch.to_pylist()
        return
    except UnicodeDecodeError:
        pass
    for index in range(batch.num_rows):  # one of them is no UTF-8
        try:
            yield from batch.slice(index, 1).to_pylist()
        except UnicodeDecodeError as error:
            yield f"a string that is not UTF-8: {error}"


def _wrong_columns(schema: Any, config: ReadConfig) -> str | None:
    """Why the file as a whole holds no text, if so."""
    import pyarrow as pa

    if config.html_column is not None and config.html_column in schema.names:
        return None
    if config.text_column not in schema.names:
        return no_text(config, dict.fromkeys(schema.names))
    kind = schema.field(config.text_column).type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return None
    columns = ", ".join(f"{field.name} ({field.type})" for field in schema)[:500]
    return f"'{config.text_column}' is of type {kind}, not a string; columns: {columns} (set text_column)"
