"""Web archives (WARC, ISO 28500, and the WET files of Common Crawl): a record is a page."""

import contextlib
import re
from collections.abc import Iterator

from tatara.data.document import Document, Quarantined
from tatara.data.raw_file import RawFile
from tatara.data.read.config import ReadConfig
from tatara.data.read.members import Buffer, GzipBuffer, StreamBuffer
from tatara.data.read.records import too_large
from tatara.data.read.responses import document_of_record
from tatara.data.read.streams import DamagedError, EmptyError, open_raw, open_stream

_START = b"WARC/"
_END = b"\r\n\r\n"
_MAX_HEADER = 1 << 20
_LENGTH = re.compile(rb"^Content-Length:[ \t]*+(\d++)[ \t]*+\r?$", re.IGNORECASE | re.MULTILINE)
_TYPE = re.compile(rb"^WARC-Type:[ \t]*+([^\s]*+)[ \t]*+\r?$", re.IGNORECASE | re.MULTILINE)
_MAX_DIGITS = 15
_DOCUMENTS = {"response", "resource", "conversion"}
_EXCERPT = 1000


def read_warc(file: RawFile, config: ReadConfig) -> Iterator[Document | Quarantined]:
    """The pages of a web archive, or of those gzip members that begin in a part of it.

    A damaged record is set aside, and reading goes on at the next one that can be found: the next gzip member, or the
    next header in an archive that is not compressed record by record.
    """
    with _open(file) as buffer:
        if file.start and not buffer.resume(file.start, _START):
            return
        more, seen = True, file.start > 0
        while more:
            place = None
            try:
                more = _skip_blank(buffer)
                place = buffer.place()
                if not more and not seen:
                    yield Quarantined(file.source, None, "no record in it", file.size)
                seen = True
                if not more or (file.end is not None and place[0] >= file.end):
                    return
                yield from _next(buffer, _name(file, place), place[0], file, config)
            except DamagedError as error:
                place = place or buffer.place()
                yield _aside(file, _name(file, place), place[0], str(error), bytes(buffer.data[:_EXCERPT]))
                more = buffer.resume(place[0] + 1, _START)


@contextlib.contextmanager
def _open(file: RawFile) -> Iterator[Buffer]:
    if file.compression == "gzip":
        with open_raw(file) as raw:
            if not raw.peek(1):
                raise EmptyError("empty file")
            yield GzipBuffer(raw)
    else:
        with open_stream(file) as stream:
            yield StreamBuffer(stream, _END)


def _skip_blank(buffer: Buffer) -> bool:
    """Go to the next record; False at the end."""
    while buffer.fill(1):
        if buffer.data[0] not in b"\r\n":
            return True
        blank = len(buffer.data) - len(buffer.data.lstrip(b"\r\n"))
        buffer.take(blank)
    return False


def _next(buffer: Buffer, name: str, place: int, file: RawFile, config: ReadConfig) -> Iterator[Document | Quarantined]:
    kind, header, length = _header(buffer)
    size = header + length
    if length > config.max_document_bytes:
        if kind in _DOCUMENTS:
            excerpt = bytes(buffer.data[: min(header, _EXCERPT)])
            yield _aside(file, name, place, too_large(length, config), excerpt, length)
        buffer.take(size)
        return
    if not buffer.fill(size):
        raise DamagedError(f"cut short: the record's length is {length:,} bytes, but the file ends before")
    buffer.complete(size + len(_END))
    tail = buffer.data[size : size + len(_END)]
    if tail != _END and not (_END.startswith(tail) and not buffer.fill(size + len(tail) + 1)):
        raise DamagedError(f"the record's length, {length:,} bytes, does not fit: no new record follows")
    raw = bytes(memoryview(buffer.data)[:size]) if kind in _DOCUMENTS else b""
    buffer.take(size)
    if not raw:
        return
    try:
        found = document_of_record(raw, kind, f"{file.source}#{name}", file.source, config)
        if found is not None:
            yield found
    except ValueError as error:
        yield _aside(file, name, place, str(error), raw[:_EXCERPT], length)


def _header(buffer: Buffer) -> tuple[str, int, int]:
    """Type of the next record, bytes of its header and of its block."""
    end = buffer.find(_END, _MAX_HEADER)
    if end < 0 or not buffer.data.startswith(_START):
        raise DamagedError("no WARC header where a record should begin")
    header = bytes(memoryview(buffer.data)[: end + len(_END)])
    kind, length = _TYPE.search(header), _LENGTH.search(header)
    if kind is None or length is None or len(length[1]) > _MAX_DIGITS:
        raise DamagedError("a WARC header without type or length")
    return kind[1].decode("ascii", errors="replace").lower(), len(header), int(length[1])


def _name(file: RawFile, place: tuple[int, int]) -> str:
    """A record's place, in words that fit into an id: offset of its gzip member, and offset in the member if any."""
    return f"{place[0]}+{place[1]}" if place[1] else str(place[0])


def _aside(file: RawFile, name: str, place: int, reason: str, excerpt: bytes, size: int = 0) -> Quarantined:
    if file.compression == "gzip":
        reason += (
            f" (record {name}: offset of the gzip member, and in it)" if "+" in name else " (offset of the gzip member)"
        )
    return Quarantined(file.source, place, reason, size, excerpt.decode("utf-8", errors="replace")[:300])
