"""Plain text and Markdown: a file is a document, or, if it is long, several."""

import codecs
import io
import re
from collections.abc import Iterator

from tatara.data.document import Document, Quarantined
from tatara.data.raw_file import RawFile
from tatara.data.read.config import ReadConfig
from tatara.data.read.records import too_large
from tatara.data.read.streams import open_stream
from tatara.data.text.decoding import DAMAGED, decode, looks_binary

_PARAGRAPH = re.compile(r"\n[ \t]*\n\s*")
_BLOCK = 8_000_000


def read_text(file: RawFile, config: ReadConfig) -> Iterator[Document | Quarantined]:
    """The text of a file, cut at paragraph ends where it is long; a large file is never held as a whole."""
    with open_stream(file) as stream:
        head = stream.read(_BLOCK)
        if looks_binary(head):
            yield Quarantined(file.source, None, "binary, not text", file.size or len(head))
            return
        more = stream.read(_BLOCK)
        blocks = _decoded(head, more, stream, config) if more else iter([decode(head, config.encodings)])
        pieces = _pieces(blocks, config.document_bytes, config.max_document_bytes)
        first = next(pieces, None)
        alone = None if first is None else next(pieces, None)
        for piece in (item for item in (first, alone) if item is not None):
            yield _document(piece, file, config, alone is None)
        for piece in pieces:
            yield _document(piece, file, config, False)


def _document(
    piece: tuple[int, str, int, str], file: RawFile, config: ReadConfig, alone: bool
) -> Document | Quarantined:
    offset, text, size, encoding = piece
    if size > config.max_document_bytes:
        return Quarantined(file.source, offset, too_large(size, config) + "; place in characters", size, text[:300])
    return Document(file.source if alone else f"{file.source}#{offset}", text, file.source, encoding=encoding)


def _decoded(head: bytes, more: bytes, stream: io.BufferedReader, config: ReadConfig) -> Iterator[tuple[str, str]]:
    """Blocks of a large file; how it begins tells its encoding."""
    # The block may end inside a character; what is before a line end is whole (UTF-16 is known by its mark).
    cut = head.rfind(b"\n") + 1 or len(head)
    _, encoding = decode(head[:cut], config.encodings)
    name = "utf-8-sig" if encoding in {"utf-8", DAMAGED} else encoding
    decoder = codecs.getincrementaldecoder(name)(errors="replace")
    block, following = head, more
    while block:
        text = decoder.decode(block, final=not following)
        yield text, DAMAGED if name == "utf-8-sig" and "\ufffd" in text else encoding
        block, following = following, stream.read(_BLOCK) if following else b""


def _pieces(blocks: Iterator[tuple[str, str]], limit: int, maximum: int) -> Iterator[tuple[int, str, int, str]]:
    """Cut a text at paragraph ends into pieces of at least ``limit`` characters (but the last).

    Yields:
        Position in characters, text, size in bytes, encoding. Of a piece above ``maximum`` bytes only the beginning.
    """
    buffer, before, encoding = "", 0, "utf-8"
    skipped: tuple[int, str, int] | None = None  # position, beginning and bytes of a piece too large to keep
    for text, encoding in blocks:
        buffer += text
        start = 0
        for match in _PARAGRAPH.finditer(buffer):
            if match.end() == len(buffer):
                break  # white space may go on in the next block
            if skipped is not None or match.start() - start >= limit:
                piece = buffer[start : match.start()]
                if skipped is not None:
                    yield *skipped[:2], skipped[2] + _size(piece), encoding
                    skipped = None
                else:
                    yield before + start, piece, _size(piece), encoding
                start = match.end()
        if len(buffer) - start > maximum:
            # All but the line ends that the next paragraph's beginning may need.
            stop = max(start, len(buffer.rstrip()))
            place, excerpt, size = skipped or (before + start, buffer[start : start + 300], 0)
            skipped = (place, excerpt, size + _size(buffer[start:stop]))
            start = stop
        buffer, before = buffer[start:], before + start
    if skipped is not None:
        yield *skipped[:2], skipped[2] + _size(buffer), encoding
    elif buffer.strip():
        yield before, buffer, _size(buffer), encoding


def _size(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", errors="replace"))
