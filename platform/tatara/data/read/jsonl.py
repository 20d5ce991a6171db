"""JSON Lines: one object on each line."""

import io
import json
import re
from collections.abc import Iterator

from tatara.data.document import Document, Quarantined
from tatara.data.raw_file import RawFile
from tatara.data.read.config import ReadConfig
from tatara.data.read.records import document_of, without_surrogates
from tatara.data.read.streams import DamagedError, open_stream
from tatara.data.text.decoding import decode, looks_binary

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_EXCERPT = 300
_SKIP = 1 << 20


def read_jsonl(file: RawFile, config: ReadConfig) -> Iterator[Document | Quarantined]:
    """The records of a JSONL file, or of those lines that begin in a part of it."""
    # A line may be longer than its text: every character may be escaped, and there are other columns.
    limit = 2 * config.max_document_bytes + (1 << 16)
    with open_stream(file) as stream:
        offset = file.start
        if file.start:
            # The record that runs into this part belongs to the part before it.
            stream.seek(file.start - 1)
            offset += _rest_of_line(stream) - 1
        if _binary(stream):
            yield Quarantined(file.source, file.start or None, "binary, not JSON lines", file.size)
            return
        while file.end is None or offset < file.end:
            try:
                line = stream.readline(limit)
                size = len(line)
                if size == limit and not line.endswith(b"\n"):
                    size += _rest_of_line(stream)
            except DamagedError as error:
                yield Quarantined(file.source, offset, str(error), 0)
                return
            if not line:
                return
            if size > limit:
                excerpt = line[:_EXCERPT].decode("utf-8", errors="replace")
                reason = f"a line of {size:,} bytes is too long for max_document_bytes ({config.max_document_bytes:,})"
                yield Quarantined(file.source, offset, reason, size, excerpt)
            elif not line.isspace():
                yield _record(line, offset, file, config)
            offset += size


def _binary(stream: io.BufferedReader) -> bool:
    try:
        return looks_binary(stream.peek(1))
    except DamagedError:
        return False


def _rest_of_line(stream: io.BufferedReader) -> int:
    """Skip to the next line; how many bytes that was."""
    skipped = 0
    while piece := stream.readline(_SKIP):
        skipped += len(piece)
        if piece.endswith(b"\n"):
            break
    return skipped


def _record(line: bytes, offset: int, file: RawFile, config: ReadConfig) -> Document | Quarantined:
    text, encoding = decode(line, config.encodings)

    def bad(reason: str) -> Quarantined:
        return Quarantined(file.source, offset, reason, len(line), text[:_EXCERPT])

    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        return bad(f"not JSON: {' '.join(str(error).split())[:_EXCERPT]}")
    if not isinstance(record, dict):
        return bad(f"a JSON {type(record).__name__} where an object is needed")
    if "\\u" in text and _SURROGATE.search(text):
        record = without_surrogates(record)
    found = document_of(record, str(offset), file, config, encoding)
    return bad(found) if isinstance(found, str) else found
