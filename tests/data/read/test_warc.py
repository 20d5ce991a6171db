import base64
import bz2
import gzip
import hashlib
import lzma
import random
import time
import zlib
from pathlib import Path

import pytest
import zstandard

from tatara.data.document import Document, Quarantined
from tatara.data.raw_file import RawFile
from tatara.data.read.config import ReadConfig
from tatara.data.read.reader import read_file
from tatara.data.read.shards import plan_shards
from tatara.data.sources import corpus_files

HTML = "Content-Type: text/html; charset=utf-8"


def record(
    block: bytes, kind: str = "response", uri: str = "http://a/", length: int | None = None, **more: str
) -> bytes:
    headers = {"WARC-Type": kind, "WARC-Record-ID": f"<urn:uuid:{zlib.crc32(block):08x}>", "WARC-Target-URI": uri}
    headers["Content-Type"] = "application/http; msgtype=response" if kind == "response" else "text/plain"
    headers |= {name.replace("_", "-"): value for name, value in more.items()}
    headers["Content-Length"] = str(len(block) if length is None else length)
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return b"WARC/1.0\r\n" + head.encode() + b"\r\n" + block + b"\r\n\r\n"


def http(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", *(headers or (HTML,)), "", ""]).encode() + body


def pages(count: int) -> list[bytes]:
    generator = random.Random(0)
    return [
        record(http(f"<p>page {i} {generator.random()}".encode() * (1 + i % 50)), uri=f"http://a/{i}")
        for i in range(count)
    ]


def read(path: Path, shard_bytes: int = 10**9, **config: object) -> list[Document | Quarantined]:
    shards = plan_shards(corpus_files(str(path)).files, shard_bytes)
    return [found for shard in shards for file in shard.files for found in read_file(file, ReadConfig(**config))]


def documents(found: list[Document | Quarantined]) -> list[Document]:
    return [item for item in found if isinstance(item, Document)]


def reasons(found: list[Document | Quarantined]) -> list[str]:
    return [item.reason for item in found if isinstance(item, Quarantined)]


def test_a_response_becomes_a_page_with_its_headers(tmp_path: Path) -> None:
    extra = {"WARC_Date": "2024-05-18T01:58:10Z", "WARC_IP_Address": "192.0.2.1"}
    block = http(b"<p>\xe4", "Content-Type: text/html; charset=latin-1", "Content-Language: de")
    first = record(b"", "warcinfo")
    (tmp_path / "a.warc").write_bytes(first + record(block, uri="http://a/b?c", **extra))
    (page,) = documents(read(tmp_path))
    assert (page.id, page.source, page.url) == (f"a.warc#{len(first)}", "a.warc", "http://a/b?c")
    assert (page.content, page.content_type, page.text) == (b"<p>\xe4", "text/html; charset=latin-1", "")
    assert page.metadata == {
        "WARC-Record-ID": f"<urn:uuid:{zlib.crc32(block):08x}>", "WARC-Date": "2024-05-18T01:58:10Z",
        "WARC-IP-Address": "192.0.2.1", "HTTP-Status": 200, "HTTP-Content-Language": "de",
    }  # fmt: skip


def test_only_wanted_responses_are_read(tmp_path: Path) -> None:
    blocks = [
        http(b"redirect", status="302 Found"), http(b"\x89PNG", "Content-Type: image/png"),
        http(b"error", status="404 No"),
        http(b"page", "Content-Type: application/xhtml+xml"), http(b"untyped", "Server: x"),
    ]  # fmt: skip
    content = b"".join(map(record, blocks)) + record(http(b"asked"), "request") + record(b"x", "metadata")
    (tmp_path / "a.warc").write_bytes(content)
    assert [item.content for item in documents(read(tmp_path))] == [b"page", b"untyped"]
    found = read(tmp_path, warc={"status": (404,), "content_types": ("text/html",)})
    assert [item.content for item in documents(found)] == [b"error"]


def test_text_is_decoded(tmp_path: Path) -> None:
    declared = "Content-Type: text/plain; charset=Shift_JIS"
    content = record(http("吾輩は猫".encode("shift_jis"), declared)) + record("日本語".encode(), "conversion")
    (tmp_path / "a.wet.gz").write_bytes(gzip.compress(content))
    first, second = documents(read(tmp_path))
    assert (first.text, first.encoding, first.content) == ("吾輩は猫", "shift_jis", None)
    assert (second.text, second.encoding) == ("日本語", "utf-8")


BODY = b"<p>" + b"".join(b"%d " % i for i in range(3000))
CHUNKED = b"".join(b"%x;x=y\r\n%s\r\n" % (len(BODY[i : i + 999]), BODY[i : i + 999]) for i in range(0, len(BODY), 999))
RAW_DEFLATE = zlib.compressobj(wbits=-15)


@pytest.mark.parametrize(
    ("body", "headers", "expected"),
    [
        (CHUNKED + b"0\r\n\r\n", ["Transfer-Encoding: chunked"], BODY),
        (CHUNKED + b"0\r\nTrailer: x\r\n\r\n", ["Transfer-Encoding: chunked"], BODY),
        (BODY, ["Transfer-Encoding: chunked"], BODY),
        (gzip.compress(BODY), ["Content-Encoding: gzip"], BODY),
        (BODY, ["Content-Encoding: gzip"], BODY),
        (zlib.compress(BODY), ["Content-Encoding: deflate"], BODY),
        (RAW_DEFLATE.compress(BODY) + RAW_DEFLATE.flush(), ["Content-Encoding: deflate"], BODY),
        (zstandard.ZstdCompressor().compress(BODY), ["Content-Encoding: zstd"], BODY),
        (
            b"%x\r\n%s\r\n0\r\n\r\n" % (len(gzip.compress(BODY, mtime=0)), gzip.compress(BODY, mtime=0)),
            ["Transfer-Encoding: chunked", "Content-Encoding: GZIP"],
            BODY,
        ),
        (CHUNKED[:5000], ["Transfer-Encoding: chunked"], "broken chunked encoding"),
        (CHUNKED, ["Transfer-Encoding: chunked"], "broken chunked encoding: the last chunk is missing"),
        (CHUNKED[:1010] + b"zz\r\n" + CHUNKED[1010:], ["Transfer-Encoding: chunked"], "broken chunked encoding"),
        (gzip.compress(BODY)[:2000], ["Content-Encoding: gzip"], "damaged content encoding"),
        (zlib.compress(BODY)[:2000], ["Content-Encoding: deflate"], "damaged content encoding deflate"),
        (b"\xff\xff\xff\xff\xff", ["Content-Encoding: br"], "damaged content encoding br"),
        (BODY, ["Content-Encoding: rot13"], "content encoding 'rot13' is not known"),
        (gzip.compress(b"a" * 30_000_000), ["Content-Encoding: gzip"], "larger than max_document_bytes"),
    ],
)
def test_contents_are_decoded(tmp_path: Path, body: bytes, headers: list[str], expected: bytes | str) -> None:
    (tmp_path / "a.warc.gz").write_bytes(gzip.compress(record(http(body, HTML, *headers))) + gzip.compress(pages(1)[0]))
    found = read(tmp_path)
    assert documents(found)[-1].url == "http://a/0"
    if isinstance(expected, bytes):
        assert documents(found)[0].content == expected
        assert not reasons(found)
    else:
        assert expected in reasons(found)[0]


def test_brotli(tmp_path: Path) -> None:
    text = b"<p>Hello"
    brotli = pytest.importorskip("brotli")
    (tmp_path / "a.warc").write_bytes(record(http(brotli.compress(text), HTML, "Content-Encoding: br")))
    assert documents(read(tmp_path))[0].content == text


def test_ids_are_offsets_of_gzip_members_where_records_have_their_own(tmp_path: Path) -> None:
    members = [gzip.compress(page) for page in pages(5)]
    (tmp_path / "a.warc.gz").write_bytes(b"".join(members))
    starts = [sum(map(len, members[:i])) for i in range(5)]
    assert [item.id for item in documents(read(tmp_path))] == [f"a.warc.gz#{start}" for start in starts]


def test_records_that_share_a_member_have_ids_of_their_own(tmp_path: Path) -> None:
    first, second, third = pages(3)
    (tmp_path / "a.warc.gz").write_bytes(gzip.compress(first + second) + gzip.compress(third))
    offset = len(gzip.compress(first + second))
    ids = [item.id for item in documents(read(tmp_path))]
    assert ids == ["a.warc.gz#0", f"a.warc.gz#0+{len(first)}", f"a.warc.gz#{offset}"]


@pytest.mark.parametrize("size", [1, 100, 999, 5000])
def test_cutting_a_gzip_archive_loses_and_doubles_nothing(tmp_path: Path, size: int) -> None:
    everything = pages(60)
    (tmp_path / "a.warc.gz").write_bytes(b"".join(map(gzip.compress, everything[:40])))
    (tmp_path / "b.warc.gz").write_bytes(gzip.compress(b"".join(everything[40:])))
    found = read(tmp_path, size)
    assert len(found) == 60
    assert found == read(tmp_path)


@pytest.mark.parametrize("seed", range(12))
def test_one_damaged_byte_costs_one_record(tmp_path: Path, seed: int) -> None:
    generator = random.Random(seed)
    members = [gzip.compress(page) for page in pages(30)]
    starts = [sum(map(len, members[:i])) for i in range(30)]
    content = bytearray(b"".join(members))
    hit = generator.randrange(30)
    # Anywhere but in the header's fields that decompression ignores (time stamp, operating system).
    offset = generator.choice([*range(4), *range(10, len(members[hit]))])
    content[starts[hit] + offset] ^= 1 << generator.randrange(8)
    (tmp_path / "a.warc.gz").write_bytes(content)
    for size in (10**9, 2000):
        found = read(tmp_path, size)
        kept = [item.url for item in documents(found)]
        assert set(kept) >= {f"http://a/{i}" for i in range(30) if i != hit}
        assert len(kept) == len(set(kept))
        if len(kept) == 29 and size == 10**9:
            assert [item.place for item in found if isinstance(item, Quarantined)] == [starts[hit]]


def test_a_large_damaged_record_is_noticed_by_its_checksum(tmp_path: Path) -> None:
    """Its content comes out in several pieces, the last of them before the checksum is looked at."""
    body = random.Random(1).randbytes(1_000_000)
    members = [bytearray(gzip.compress(record(http(body)), 0)), bytearray(gzip.compress(pages(1)[0]))]
    members[0][500_000] ^= 1
    (tmp_path / "a.warc.gz").write_bytes(b"".join(members))
    found = read(tmp_path)
    assert [item.url for item in documents(found)] == ["http://a/0"]
    assert "damaged gzip stream" in reasons(found)[0]


@pytest.mark.parametrize("suffix", ["warc", "warc.gz", "warc.bz2", "warc.zst", "warc.xz"])
def test_a_file_that_is_cut_short_keeps_everything_before(tmp_path: Path, suffix: str) -> None:
    packed = {"warc": bytes, "warc.gz": gzip.compress, "warc.bz2": bz2.compress, "warc.xz": lzma.compress,
              "warc.zst": zstandard.ZstdCompressor().compress}[suffix]  # fmt: skip
    content = b"".join(packed(page) for page in pages(20))
    (tmp_path / f"a.{suffix}").write_bytes(content[:-40])
    found = read(tmp_path)
    assert [item.url for item in documents(found)] == [f"http://a/{i}" for i in range(19)]
    (reason,) = reasons(found)
    assert reason.startswith("cut short")


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("off", [-5, -1, 1, 3, 4, 50, 10**6, 10**12])
def test_a_wrong_length_costs_one_record(tmp_path: Path, packed: bool, off: int) -> None:
    block = http(b"<p>wrong length, and long enough to take some away")
    records = [*pages(2), record(block, length=len(block) + off), *pages(4)[2:]]
    content = b"".join(map(gzip.compress, records)) if packed else b"".join(records)
    (tmp_path / ("a.warc.gz" if packed else "a.warc")).write_bytes(content)
    found = read(tmp_path)
    # A length beyond the bound is believed: nothing tells a large record from a wrong length.
    whole = 4 if off < 10**7 else 2
    assert [item.url for item in documents(found)] == [f"http://a/{i}" for i in range(whole)]
    assert len(reasons(found)) == 1


def test_a_wrong_digest_is_noticed_unless_told_otherwise(tmp_path: Path) -> None:
    block = http(b"<p>signed")
    good = "sha1:" + base64.b32encode(hashlib.sha1(block).digest()).decode()
    content = record(block, WARC_Block_Digest=good) + record(block + b"!", WARC_Block_Digest=good)
    (tmp_path / "a.warc").write_bytes(content + record(block, WARC_Block_Digest="unknown:abc"))
    found = read(tmp_path)
    assert [item.content for item in documents(found)] == [b"<p>signed", b"<p>signed"]
    assert reasons(found) == [f"its content does not have the digest in its header, {good}"]
    assert len(documents(read(tmp_path, warc={"verify_digests": False}))) == 3


def test_garbage_between_records(tmp_path: Path) -> None:
    first, second = pages(2)
    (tmp_path / "a.warc").write_bytes(first + b"garbage\r\n\r\nmore\r\n\r\n" + second)
    (tmp_path / "b.warc.gz").write_bytes(gzip.compress(first) + b"garbage" * 99_999 + gzip.compress(second))
    found = read(tmp_path)
    assert [item.url for item in documents(found)] == ["http://a/0", "http://a/1"] * 2
    assert len(reasons(found)) == 2


@pytest.mark.parametrize("value", [b" " * 600_000 + b"x y", b"1" * 600_000, b"\t1" * 300_000])
def test_a_malicious_header_takes_no_time(tmp_path: Path, value: bytes) -> None:
    head = b"WARC/1.0\r\nWARC-Type:" + value[:400_000] + b"\r\nContent-Length:" + value + b"\r\n\r\n"
    (tmp_path / "a.warc").write_bytes(head + b"\r\n\r\n" + pages(1)[0])
    start = time.process_time()
    found = read(tmp_path)
    assert time.process_time() - start < 2
    assert [item.url for item in documents(found)] == ["http://a/0"]
    assert len(reasons(found)) == 1


@pytest.mark.data
def test_what_other_tools_wrote(sample_data: Path) -> None:
    """The same pages as FastWARC's own iterator yields, where that reads the whole file."""
    from fastwarc.warc import ArchiveIterator, WarcRecordType

    wanted = WarcRecordType.response | WarcRecordType.conversion
    kinds = {*ReadConfig().warc.content_types, None}
    checked = 0
    for path in sorted((sample_data / "warc").glob("*.gz")):
        if ".wat." in path.name:
            continue
        expected = {}
        for entry in ArchiveIterator(str(path), record_types=wanted, parse_http=True, auto_decode="none"):
            response = entry.record_type == WarcRecordType.response
            if response and (entry.http_headers.status_code != 200 or entry.http_content_type not in kinds):
                continue
            if not response or not {"Transfer-Encoding", "Content-Encoding"} & {*dict(entry.http_headers.astuples())}:
                expected[entry.headers["WARC-Record-ID"]] = entry.reader.read()
        found = list(read_file(RawFile(str(path), path.name, "warc", path.stat().st_size), ReadConfig()))
        pages = [item for item in documents(found) if item.content is not None]
        assert not reasons(found)
        same = [item for item in pages if expected.get(item.metadata["WARC-Record-ID"], item.content) == item.content]
        assert len(same) == len(pages)
        assert {item.metadata["WARC-Record-ID"] for item in documents(found)} >= set(expected)
        assert len({item.id for item in documents(found)}) == len(documents(found))
        checked += len(pages)
    assert checked > 70
