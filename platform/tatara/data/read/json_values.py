"""JSON files that are no JSON Lines: an array of objects, or objects one after the other, on any number of lines."""

import codecs
import json
import re
from collections.abc import Iterator

from tatara.data.document import Document, Quarantined
from tatara.data.raw_file import RawFile
from tatara.data.read.config import ReadConfig
from tatara.data.read.jsonl import read_jsonl
from tatara.data.read.records import document_of, without_surrogates
from tatara.data.read.streams import DamagedError, Stream, open_stream
from tatara.data.text.decoding import looks_binary

_BETWEEN = re.compile(r"[\s,]*")
_BLOCK = 1 << 18
_EXCERPT = 300


def read_json(file: RawFile, config: ReadConfig) -> Iterator[Document | Quarantined]:
    """The objects in a JSON file: its lines if the first one is an object, else the items of an array."""
    with open_stream(file) as stream:
        if not _has_lines(stream):
            yield from _values(stream, file, config)
            return
    yield from read_jsonl(file, config)


def _has_lines(stream: Stream) -> bool:
    """Whether the first line is an object, or too long to tell; or nothing else can be made of the file either."""
    try:
        head = stream.peek(1)
    except DamagedError:
        return True
    line, end, _ = head.lstrip(b"\xef\xbb\xbf \t\r\n").partition(b"\n")
    if looks_binary(head) or not line.startswith((b"{", b"[")):
        return True
    if line.startswith(b"["):
        return False
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return not end
    return True


def _values(stream: Stream, file: RawFile, config: ReadConfig) -> Iterator[Document | Quarantined]:
    limit = 2 * config.max_document_bytes + _BLOCK
    decoder = codecs.getincrementaldecoder("utf-8-sig")(errors="replace")
    scan = json.JSONDecoder().raw_decode
    text, position, place, begun, ended = "", 0, 0, False, False
    while True:
        start = _behind_separators(text, position)
        if not begun and text[start : start + 1] == "[":
            begun = True
            start = _behind_separators(text, start + 1)
        place, position = place + _size(text[position:start]), start
        rest = text[start : start + _EXCERPT]
        if ended and (not rest or (begun and rest.strip() == "]")):
            return
        try:
            value, end = scan(text, position)
        except (ValueError, RecursionError) as error:
            text, position = text[position:], 0
            if ended or len(text) > limit:
                reason = f"not JSON from here on: {' '.join(str(error).split())}" if ended else "an object too large"
                yield Quarantined(file.source, place, reason, _size(text), rest)
                return
            # As much again as there is: however long an object is, it is looked at a few times only.
            block = stream.read(max(_BLOCK, len(text)))
            ended = not block
            text += decoder.decode(block, final=ended)
            continue
        yield _document(value, place, text[position:end], file, config)
        place, position = place + _size(text[position:end]), end


def _behind_separators(text: str, position: int) -> int:
    match = _BETWEEN.match(text, position)
    return match.end() if match else position


def _document(value: object, place: int, text: str, file: RawFile, config: ReadConfig) -> Document | Quarantined:
    if not isinstance(value, dict):
        reason = f"a JSON {type(value).__name__} where an object is needed"
        return Quarantined(file.source, place, reason, _size(text), text[:_EXCERPT])
    found = document_of(without_surrogates(value), str(place), file, config)
    return Quarantined(file.source, place, found, _size(text), text[:_EXCERPT]) if isinstance(found, str) else found


def _size(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", errors="replace"))
