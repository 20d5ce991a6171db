"""A web archive of any size, made of real pages whose words are exchanged so that no two are alike.

Pages come from the labelled sets below ``$TATARA_SAMPLE_DATA``; without them, Python's own documentation is put into
pages with menus, scripts and footers. A tenth are near copies of the page before.
"""

import gzip
import html
import io
import os
import random
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path

_TEXT = re.compile(rb">([^<>]{40,})<")
_WORD = re.compile(rb"[A-Za-z]{4,}")
_REPLACED = 0.35
_COPIES = 0.1


def pages() -> list[bytes]:
    """Real pages, as bytes."""
    found = []
    root = Path(os.environ.get("TATARA_SAMPLE_DATA", "/nowhere"))
    labelled = root / "html-article-extraction-benchmark" / "html"
    found += [gzip.decompress(path.read_bytes()) for path in sorted(labelled.glob("*.gz"))]
    archive = root / "html-trafilatura-eval" / "pages.tar.gz"
    if archive.exists():
        with tarfile.open(archive) as tar:
            for member in tar:
                opened = tar.extractfile(member)
                if opened is not None:
                    content = opened.read()
                    found.append(gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content)
    return found or [_page(name, text) for name, text in _documentation()]


def _documentation() -> Iterator[tuple[str, str]]:
    from pydoc_data.topics import topics

    yield from sorted(topics.items())


def _page(name: str, text: str) -> bytes:
    menu = "".join(f'<li><a href="/{i}.html">Section {i}</a></li>' for i in range(40))
    body = "".join(f"<p>{html.escape(part)}</p>" for part in text.split("\n\n"))
    script = "<script>" + "var a = function(b) { return b * 2; };\n" * 200 + "</script>"
    return (
        f"<html><head><title>{name}</title>{script}</head><body><nav><ul>{menu}</ul></nav><article><h1>{name}</h1>"
        f"{body}</article><footer>Copyright, terms of use, privacy, contact</footer></body></html>"
    ).encode()


def write_warc(path: Path, size: int, seed: int = 0) -> int:
    """Write pages until they have ``size`` bytes before compression; returns how many there are."""
    rng = random.Random(seed)
    originals = pages()
    vocabulary = sorted({word for page in originals[:100] for word in _WORD.findall(page)})
    written = count = 0
    previous = originals[0]
    partial = path.with_suffix(".part")
    with partial.open("wb") as out:
        while written < size:
            if rng.random() < _COPIES:
                content = previous.replace(b" and ", b" plus ", 1)
            else:
                content = previous = _mutate(originals[count % len(originals)], vocabulary, rng)
            out.write(_record(f"https://site{count % 997}.example/{count}.html", content, count))
            written += len(content)
            count += 1
    partial.rename(path)
    return count


def _mutate(page: bytes, vocabulary: list[bytes], rng: random.Random) -> bytes:
    def words(match: re.Match[bytes]) -> bytes:
        return rng.choice(vocabulary) if rng.random() < _REPLACED else match[0]

    return _TEXT.sub(lambda match: b">" + _WORD.sub(words, match[1]) + b"<", page)


def _record(url: str, content: bytes, number: int) -> bytes:
    http = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: %d\r\n\r\n" % len(content) + content
    head = (
        "WARC/1.0\r\nWARC-Type: response\r\n"
        f"WARC-Record-ID: <urn:uuid:00000000-0000-4000-8000-{number:012d}>\r\n"
        f"WARC-Target-URI: {url}\r\nWARC-Date: 2024-01-01T00:00:00Z\r\n"
        f"Content-Type: application/http; msgtype=response\r\nContent-Length: {len(http)}\r\n\r\n"
    ).encode()
    buffer = io.BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb", compresslevel=3, mtime=0) as file:
        file.write(head + http + b"\r\n\r\n")
    return buffer.getvalue()
