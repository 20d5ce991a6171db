"""What a record of a web archive holds: an HTTP response, a file, or text that was extracted from one."""

import codecs
import io
import re
import zlib
from typing import Any

from tatara.data.document import Document
from tatara.data.read.config import ReadConfig
from tatara.data.read.records import too_large
from tatara.data.read.streams import DamagedError, Decompressed
from tatara.data.text.decoding import decode, looks_binary
from tatara.errors import require

_KEPT_HEADERS = (
    "WARC-Record-ID", "WARC-Date", "WARC-IP-Address", "WARC-Identified-Payload-Type", "WARC-Truncated",
    "WARC-Refers-To", "WARC-Identified-Content-Language",
)  # fmt: skip
_LOCATIONS = ("http://", "https://", "ftp://", "file:")
_CHUNK_HEADER = re.compile(rb"([0-9A-Fa-f]{1,16})[ \t]*(?:;[^\r\n]*)?\r?\n")
_CHARSET = re.compile(r"charset\s*=\s*[\"']?([\w.:-]{1,40})", re.IGNORECASE)
_DIGESTS = ("sha1:", "sha256:", "sha-256:", "md5:")
_COMPRESSIONS = (
    ("gzip", "gzip", b"\x1f\x8b"), ("x-gzip", "gzip", b"\x1f\x8b"), ("zstd", "zstd", b"\x28\xb5\x2f\xfd")
)  # fmt: skip
_PLAIN_ENCODINGS = {"", "identity", "none"}


def document_of_record(raw: bytes, kind: str, id: str, source: str, config: ReadConfig) -> Document | None:
    """The document in a WARC record; None if it is none of those wanted.

    Args:
        raw: Header and block.
        kind: ``response``, ``resource`` or ``conversion``.
        id: The document's id.
        source: Name of the file.
        config: What is wanted.

    Raises:
        ValueError: The record is damaged; the message says how.
    """
    record = require("fastwarc.warc", "data").WarcRecord.from_bytes(raw)
    headers = {name: value for name in _KEPT_HEADERS if (value := record.headers.get(name)) is not None}
    url = (record.headers.get("WARC-Target-URI") or "").strip("<>")
    if kind == "response":
        if not record.is_http:
            return None
        found = _response(record, headers, config)
        if found is None:
            return None
        content, declared = found
    else:
        declared = record.headers.get("Content-Type") or ""
        if not url.startswith(_LOCATIONS) or (kind == "resource" and not _wanted(declared, config)):
            return None
        _verify(record, config)
        content = record.reader.read()
    if len(content) > config.max_document_bytes:
        raise ValueError(too_large(len(content), config))
    page = Document(id, "", source, url or None, headers, content_type=declared or None)
    if _media_type(declared) == "text/plain":
        page.text, page.encoding = _plain(content, declared, config)
    else:
        page.content = content
    return page


def _response(record: Any, headers: dict[str, Any], config: ReadConfig) -> tuple[bytes, str] | None:
    """Body and declared type of an HTTP response; None if it is not wanted."""
    _verify(record, config)
    try:
        record.parse_http(auto_decode="none")
    except OSError as error:
        raise ValueError(f"no HTTP response: {error}") from None
    http = record.http_headers
    if http is None or http.status_code is None:
        raise ValueError("no HTTP response: it has no status line")
    declared = http.get("Content-Type") or ""
    if http.status_code not in config.warc.status or not _wanted(declared, config):
        return None
    headers["HTTP-Status"] = http.status_code
    if http.get("Content-Language"):
        headers["HTTP-Content-Language"] = http.get("Content-Language")
    body = record.reader.read()
    # An archive may hold what the crawler had decoded already, under the header of what it had received.
    if "chunked" in (http.get("Transfer-Encoding") or "").lower() and _CHUNK_HEADER.match(body):
        body = _joined(body, config.max_document_bytes)
    return _decoded(body, (http.get("Content-Encoding") or "").strip().lower(), config), declared


def _verify(record: Any, config: ReadConfig) -> None:
    digest = record.headers.get("WARC-Block-Digest") if config.warc.verify_digests else None
    # Digests by other algorithms are not understood, which says nothing about the block.
    if digest and digest.lower().startswith(_DIGESTS) and not record.verify_block_digest():
        raise ValueError(f"its content does not have the digest in its header, {digest}")


def _joined(body: bytes, limit: int) -> bytes:
    """A body that was sent in chunks (RFC 9112, section 7.1), or a little more of it than ``limit``."""
    chunks: list[bytes] = []
    position = total = 0
    while header := _CHUNK_HEADER.match(body, position):
        size, position = int(header[1], 16), header.end()
        if not size or total > limit:
            return b"".join(chunks)
        chunks.append(body[position : position + size])
        position, total = position + size, total + size
        if position > len(body):
            raise ValueError("broken chunked encoding: the last chunk is cut short")
        end = body[position : position + 2]
        position += 2 if end == b"\r\n" else 1 if end[:1] == b"\n" else 0
    where = f"no chunk at byte {position:,}" if position < len(body) else "the last chunk is missing"
    raise ValueError(f"broken chunked encoding: {where}")


def _decoded(body: bytes, encoding: str, config: ReadConfig) -> bytes:
    """A body without its compression, or a little more of it than is allowed."""
    limit = config.max_document_bytes + 1
    if encoding in _PLAIN_ENCODINGS or not body:
        return body
    for name, compression, magic in _COMPRESSIONS:
        if encoding == name:
            return _inflated(io.BytesIO(body), compression, limit) if body.startswith(magic) else body
    if encoding == "deflate":
        machine = zlib.decompressobj(zlib.MAX_WBITS if body[0] & 15 == 8 else -zlib.MAX_WBITS)
        try:
            plain = machine.decompress(body, limit)
        except zlib.error as error:
            raise ValueError(f"damaged content encoding deflate: {error}") from None
        if not machine.eof and len(plain) < limit:
            raise ValueError("damaged content encoding deflate: it ends too early")
        return plain
    if encoding == "br":
        try:
            found: bytes = require("fastwarc.stream_io", "data").BrotliReader(io.BytesIO(body)).read(limit)
        except OSError as error:
            raise ValueError(f"damaged content encoding br: {error}") from None
        return found
    raise ValueError(f"content encoding '{encoding[:40]}' is not known")


def _inflated(stream: io.BytesIO, compression: str, limit: int) -> bytes:
    try:
        with io.BufferedReader(Decompressed(stream, compression)) as reader:
            return reader.read(limit)
    except DamagedError as error:
        raise ValueError(f"damaged content encoding: {error}") from None


def _wanted(declared: str, config: ReadConfig) -> bool:
    kind = _media_type(declared)
    return kind in config.warc.content_types or (not kind and "text/html" in config.warc.content_types)


def _media_type(declared: str) -> str:
    return declared.split(";", 1)[0].strip().lower()


def _plain(content: bytes, declared: str, config: ReadConfig) -> tuple[str, str]:
    charset = _CHARSET.search(declared)
    if charset:
        try:
            return content.decode(charset[1]), codecs.lookup(charset[1]).name
        except (LookupError, ValueError):
            pass  # servers are often wrong
    if looks_binary(content):
        raise ValueError("binary, not text")
    return decode(content, config.encodings)
