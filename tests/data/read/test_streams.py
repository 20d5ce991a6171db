import bz2
import gzip
import json
import lzma
from pathlib import Path

import pytest
import zstandard

from reading import documents, quarantined, read, write_jsonl
from tatara.data.document import Quarantined

PACK = {"gz": gzip.compress, "zst": zstandard.ZstdCompressor().compress, "bz2": bz2.compress, "xz": lzma.compress}


@pytest.mark.parametrize("suffix", PACK)
def test_compressed(tmp_path: Path, suffix: str) -> None:
    plain = write_jsonl(tmp_path / "a.jsonl", [{"text": f"document {i}"} for i in range(1000)])
    packed = tmp_path / f"a.jsonl.{suffix}"
    content = plain.read_bytes()
    packed.write_bytes(PACK[suffix](content))
    assert [item.text for item in documents(read(packed))] == [item.text for item in documents(read(plain))]

    packed.write_bytes(packed.read_bytes()[: packed.stat().st_size // 2])
    found = read(packed)
    (bad,) = quarantined(found)
    assert isinstance(found[-1], Quarantined)
    assert bad.reason.startswith("cut short")
    # Everything before the cut is kept (one block is lost where a format is decompressed by blocks).
    kept = documents(found)
    assert [item.text for item in kept] == [f"document {i}" for i in range(len(kept))]
    assert bad.place == len(b"".join(content.splitlines(True)[: len(kept)]))
    assert suffix in {"bz2", "xz", "zst"} or len(kept) > 300


@pytest.mark.parametrize("suffix", PACK)
def test_several_compressed_members_and_padding(tmp_path: Path, suffix: str) -> None:
    lines = [json.dumps({"text": f"document {i}"}).encode() + b"\n" for i in range(300)]
    packed = b"".join(PACK[suffix](b"".join(lines[i : i + 100])) for i in (0, 100, 200))
    (tmp_path / f"a.jsonl.{suffix}").write_bytes(packed + (b"" if suffix == "zst" else b"\0" * 200_000))
    found = read(tmp_path)
    assert [item.text for item in documents(found)] == [f"document {i}" for i in range(300)]
    assert not quarantined(found)


@pytest.mark.parametrize("suffix", PACK)
def test_a_damaged_stream_is_named_and_ends_its_file_alone(tmp_path: Path, suffix: str) -> None:
    first = b"".join(json.dumps({"text": f"document {i}"}).encode() + b"\n" for i in range(100))
    second = bytearray(PACK[suffix](first))
    second[len(second) // 2] ^= 0xFF
    (tmp_path / f"a.jsonl.{suffix}").write_bytes(PACK[suffix](first) + bytes(second))
    write_jsonl(tmp_path / "b.jsonl", [{"text": "last"}])
    found = read(tmp_path)
    assert [item.text for item in documents(found)][:100] == [f"document {i}" for i in range(100)]
    assert documents(found)[-1].text == "last"
    assert any("stream" in item.reason for item in quarantined(found))


def test_a_line_of_200_megabytes_is_skipped_in_bounded_memory(tmp_path: Path) -> None:
    import tracemalloc

    with gzip.open(tmp_path / "a.jsonl.gz", "wb", compresslevel=1) as file:
        file.write(b'{"text": "')
        for _ in range(200):
            file.write(b"a" * 1_000_000)
        file.write(b'"}\n{"text": "after"}\n')
    tracemalloc.start()
    found = read(tmp_path, max_document_bytes=2_000_000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert [item.text for item in documents(found)] == ["after"]
    assert [item.size for item in quarantined(found)] == [200_000_013]
    assert peak < 40_000_000
