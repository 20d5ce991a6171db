"""Dumps of wikis (MediaWiki's XML export): a page is a document."""

import html
import re
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass

from tatara.data.document import Document, Quarantined
from tatara.data.raw_file import RawFile
from tatara.data.read.config import ReadConfig
from tatara.data.read.members import StreamBuffer
from tatara.data.read.records import too_large
from tatara.data.read.streams import DamagedError, open_stream
from tatara.data.read.wikitext import plain_text

_PAGE, _PAGE_END = b"<page>", b"</page>"
_HEAD_BYTES = 1 << 20
_EXCERPT = 300
_NAMESPACE = re.compile(r'<namespace key="(-?\d+)"[^<>]*>([^<>]*)</namespace>')
_BASE = re.compile(r"<base>([^<>]*)</base>")
_TEXT = re.compile(r"<text\b[^<>]*?(?:/>|>([^<]*)</text>)")
_REDIRECT = re.compile(r"<redirect\b")
_FILES_AND_CATEGORIES = {6, 14}


@dataclass(frozen=True)
class _Site:
    base: str
    dropped: frozenset[str]


def read_wiki(file: RawFile, config: ReadConfig) -> Iterator[Document | Quarantined]:
    """The pages of a dump. Pages are found by their tags, so that a damaged one costs no other."""
    with open_stream(file) as stream:
        buffer = StreamBuffer(stream, b"")
        try:
            start = buffer.find(_PAGE, _HEAD_BYTES)
            head = bytes(buffer.data[: start if start >= 0 else _HEAD_BYTES]).decode("utf-8", errors="replace")
            if "<mediawiki" not in head:
                yield Quarantined(
                    file.source, None, "XML, but no dump of a wiki (<mediawiki>)", file.size, head[:_EXCERPT]
                )
                return
            site = _site(head)
            # Markup is escaped and takes up to five times its length; a page is read as a whole.
            limit = 2 * config.max_document_bytes + _HEAD_BYTES
            while buffer.resume(0, _PAGE):
                yield from _next(buffer, site, limit, file, config)
        except DamagedError as error:
            yield Quarantined(file.source, buffer.place()[0], str(error), 0)


def _next(
    buffer: StreamBuffer, site: _Site, limit: int, file: RawFile, config: ReadConfig
) -> Iterator[Document | Quarantined]:
    place = buffer.place()[0]
    end = buffer.find(_PAGE_END, limit)
    following = buffer.data.find(_PAGE, len(_PAGE), end if end >= 0 else None)
    size = end + len(_PAGE_END)
    if end < 0 or following >= 0:
        excerpt = bytes(buffer.data[: 4 * _EXCERPT]).decode("utf-8", errors="replace")[:_EXCERPT]
        if following < 0 and len(buffer.data) >= limit:
            reason = too_large(len(buffer.data), config).replace("document of", "page of more than")
        else:
            reason = "a page without an end"
        yield Quarantined(file.source, place, reason, max(following, 0) or len(buffer.data), excerpt)
        buffer.take(following if following >= 0 else len(_PAGE))
        return
    raw = bytes(memoryview(buffer.data)[:size])
    buffer.take(size)
    try:
        found = _document(raw.decode("utf-8"), site, file.source, config)
        if found is not None:
            yield found
    except ValueError as error:
        excerpt = raw[: 4 * _EXCERPT].decode("utf-8", errors="replace")[:_EXCERPT]
        yield Quarantined(file.source, place, str(error), size, excerpt)


def _document(page: str, site: _Site, source: str, config: ReadConfig) -> Document | None:
    """The document of a page, of its last revision; None if it is none of those wanted."""
    namespace, number, title = (_field(page, name) for name in ("ns", "id", "title"))
    if title is None or number is None:
        raise ValueError("a page without title or id")
    wanted = config.wiki.namespaces
    if wanted and namespace is not None and int(namespace) not in wanted:
        return None
    head, _, revision = page.rpartition("<revision>")
    if (_REDIRECT.search(head) and not config.wiki.redirects) or _field(revision, "model") not in {None, "wikitext"}:
        return None
    text = _TEXT.search(revision)
    if text is None:
        raise ValueError("a page without text")
    wikitext = html.unescape(text[1] or "")
    size = len(wikitext.encode("utf-8", errors="replace"))
    if size > config.max_document_bytes:
        raise ValueError(too_large(size, config))
    shown = plain_text(wikitext, site.dropped)
    if not shown:
        return None
    metadata = {
        "title": title,
        "page_id": int(number),
        "revision_id": _field(revision, "id"),
        "timestamp": _field(revision, "timestamp"),
    }
    url = site.base + urllib.parse.quote(title.replace(" ", "_"), safe="/:(),'!*@;") if site.base else None
    return Document(f"{source}#{number}", f"# {title}\n\n{shown}", source, url, metadata)


def _field(page: str, name: str) -> str | None:
    """The content of the first element of a name."""
    _, found, rest = page.partition(f"<{name}>")
    value, closed, _ = rest.partition(f"</{name}>")
    return html.unescape(value) if found and closed else None


def _site(head: str) -> _Site:
    base = _BASE.search(head)
    names = {name.lower() for key, name in _NAMESPACE.findall(head) if int(key) in _FILES_AND_CATEGORIES}
    return _Site(base[1].rpartition("/")[0] + "/" if base else "", frozenset(names))
