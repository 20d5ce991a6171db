import contextlib
import functools
import gzip
import http.server
import io
import threading
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from reading import documents, quarantined, read, write_jsonl
from tatara.data.document import Document, Quarantined
from tatara.data.raw_file import RawFile
from tatara.data.read.config import ReadConfig
from tatara.data.read.reader import read_file
from tatara.data.read.shards import plan_shards
from tatara.data.sources import corpus_files
from tatara.errors import StorageError


def test_a_file_that_vanishes_is_set_aside(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    (file,) = corpus_files(str(tmp_path)).files
    (tmp_path / "a.txt").unlink()
    (found,) = read_file(file, ReadConfig())
    assert isinstance(found, Quarantined)
    assert (found.source, found.reason) == ("a.txt", "vanished after the run had begun")


def test_a_lost_connection_loses_no_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def reset(file: object) -> None:
        raise ConnectionResetError("connection reset by peer")

    monkeypatch.setattr("tatara.data.read.plain.open_stream", reset)
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(StorageError, match=r"cannot read .*a\.txt: connection reset by peer; run again"):
        read(tmp_path)


def test_shards_depend_on_files_alone(tmp_path: Path) -> None:
    for i in range(9):
        (tmp_path / f"{i}.txt").write_text("x" * 100)
    files = corpus_files(str(tmp_path)).files
    shards = plan_shards(files, 250)
    assert [[file.source for file in shard.files] for shard in shards] == [
        ["0.txt", "1.txt"], ["2.txt", "3.txt"], ["4.txt", "5.txt"], ["6.txt", "7.txt"], ["8.txt"]
    ]  # fmt: skip
    assert len({shard.key for shard in shards}) == 5
    assert plan_shards((), 250) == []


def test_documentation_of_packages() -> None:
    settings = ReadConfig()
    files = {file.source: file for file in corpus_files("python-docs").files if file.kind != "python"}
    (description,) = documents(
        list(read_file(files[next(s for s in files if "/pydantic-" in s and "META" in s)], settings))
    )
    assert "# Pydantic" in description.text
    assert "Requires-Dist" not in description.text
    reference = {
        item.id: item.text for item in documents(list(read_file(files["python/pydoc_data/topics.py"], settings)))
    }
    assert 'The "assert" statement' in reference["python/pydoc_data/topics.py::assert"]


NAMES = (
    "jsonl",
    "json",
    "json.gz",
    "jsonl.gz",
    "parquet",
    "txt",
    "html",
    "warc",
    "warc.gz",
    "wet.gz",
    "xml",
    "xml.bz2",
)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("content", [b"", b"\0" * 5000, bytes(range(256)) * 40], ids=["empty", "zeros", "binary"])
def test_no_file_of_a_kind_it_is_not_ends_the_run(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / f"a.{name}").write_bytes(content)
    found = read(tmp_path)
    if name == "html" and content:
        assert len(documents(found)) == 1  # what a page is, is for extraction to say
        return
    assert quarantined(found)
    assert not documents(found)
    for item in quarantined(found):
        assert "\n" not in item.reason
        assert item.reason


@pytest.mark.parametrize("name", NAMES)
def test_a_file_that_is_gone_is_set_aside_whatever_its_kind(tmp_path: Path, name: str) -> None:
    (tmp_path / f"a.{name}").write_bytes(b"x")
    (file,) = corpus_files(str(tmp_path)).files
    (tmp_path / f"a.{name}").unlink()
    (found,) = read_file(file, ReadConfig())
    assert isinstance(found, Quarantined)
    assert "vanished" in found.reason


@pytest.mark.parametrize("name", ["jsonl", "parquet", "txt", "html", "warc", "xml"])
def test_a_document_above_the_bound_is_set_aside_with_its_size(tmp_path: Path, name: str) -> None:
    big, small = "large words " * 20_000, "small words"
    path = tmp_path / f"a.{name}"
    if name == "jsonl":
        write_jsonl(path, [{"text": big}, {"text": small}])
    elif name == "parquet":
        pq.write_table(pa.table({"text": [big, small]}), path)
    elif name == "txt":
        path.write_text(f"{big}\n\n{small}")
    elif name == "html":
        path.write_text(big)
        (tmp_path / "b.html").write_text(small)
    elif name == "warc":
        records = [
            f"WARC/1.0\r\nWARC-Type: conversion\r\nWARC-Target-URI: http://a/\r\nContent-Type: text/plain\r\n"
            f"Content-Length: {len(text)}\r\n\r\n{text}\r\n\r\n"
            for text in (big, small)
        ]
        path.write_text("".join(records), newline="")
    else:
        pages = [f"<page><title>t</title><ns>0</ns><id>{i}</id><revision><text>{text}</text></revision></page>"
                 for i, text in enumerate((big, small))]  # fmt: skip
        path.write_text(f"<mediawiki>{''.join(pages)}</mediawiki>")
    found = read(tmp_path, max_document_bytes=100_000)
    (bad,) = quarantined(found)
    assert "max_document_bytes" in bad.reason
    assert bad.size >= len(big) or name == "parquet"
    (kept,) = documents(found)
    assert small in kept.text or kept.content == small.encode()


def test_a_connection_lost_halfway_is_no_fault_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_jsonl(tmp_path / "a.jsonl", [{"text": "x" * 1000}] * 1000)

    class Flaky(io.FileIO):
        def readinto(self, buffer: object) -> int:
            if self.tell() > 300_000:
                raise ConnectionResetError("reset by peer")
            return super().readinto(buffer)  # type: ignore[arg-type]

    monkeypatch.setattr("tatara.data.read.streams.io.FileIO", Flaky)
    file = RawFile(str(tmp_path / "a.jsonl"), "a.jsonl", "jsonl", 1_000_000)
    with pytest.raises(StorageError, match="reset by peer; run again"):
        list(read_file(file, ReadConfig()))


def test_from_an_object_store_and_a_web_server(s3_bucket: str, tmp_path: Path) -> None:
    from tatara import storage

    content = gzip.compress(b'{"text": "far away"}\n' * 3)
    storage.write_bytes(f"{s3_bucket}/read/a.jsonl.gz", content)
    storage.write_bytes(f"{s3_bucket}/read/b.jsonl", b'{"text": "plain"}\n' * 3)
    files = corpus_files(f"{s3_bucket}/read").files
    found = [item for shard in plan_shards(files, 20) for file in shard.files for item in read_file(file, ReadConfig())]
    assert [item.text for item in documents(found)] == ["far away"] * 3 + ["plain"] * 3
    pq.write_table(pa.table({"text": [f"row {i}" for i in range(200)]}), tmp_path / "c.parquet", row_group_size=20)
    page = b"WARC/1.0\r\nWARC-Type: conversion\r\nWARC-Target-URI: http://a/\r\nContent-Type: text/plain\r\n"
    members = [gzip.compress(page + b"Content-Length: 2\r\n\r\n%d\r\n\r\n" % i) for i in range(10, 40)]
    storage.write_bytes(f"{s3_bucket}/parts/c.parquet", (tmp_path / "c.parquet").read_bytes())
    storage.write_bytes(f"{s3_bucket}/parts/d.wet.gz", b"".join(members))
    shards = plan_shards(corpus_files(f"{s3_bucket}/parts").files, 500)
    found = [item for shard in shards for file in shard.files for item in read_file(file, ReadConfig())]
    texts = [item.text for item in documents(found)]
    assert texts == [f"row {i}" for i in range(200)] + [str(i) for i in range(10, 40)]
    assert len(shards) > 8
    (tmp_path / "page.html").write_bytes(b"<p>Hello")
    with web_server(tmp_path) as address:
        assert [item.content for item in documents(read_location(f"{address}/page.html"))] == [b"<p>Hello"]


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "text", "warc", "wiki"])
def test_a_file_may_be_gone_from_a_server_or_the_server_itself(tmp_path: Path, kind: str) -> None:
    with web_server(tmp_path) as address:
        gone = RawFile(f"{address}/a", "a", kind, 1_000_000)  # type: ignore[arg-type]
        (found,) = read_file(gone, ReadConfig())
        assert isinstance(found, Quarantined)
        assert "vanished" in found.reason
    with pytest.raises(StorageError, match=r"cannot read http://.*; run again to continue"):
        list(read_file(gone, ReadConfig()))


def read_location(location: str) -> list[Document | Quarantined]:
    return [found for file in corpus_files(location).files for found in read_file(file, ReadConfig())]


@contextlib.contextmanager
def web_server(directory: Path) -> Iterator[str]:
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(directory))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
