import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tatara.data.curate import CurateConfig
from tatara.data.read import Document, Quarantined, plan_shards, read_file
from tatara.data.sources import corpus_files
from tatara.errors import StorageError

BIG = 10**9


def read(path: Path, shard_bytes: int = BIG, **config: object) -> list[Document | Quarantined]:
    settings = CurateConfig(corpus=str(path), **config)
    shards = plan_shards(corpus_files(settings).files, shard_bytes)
    return [found for shard in shards for file in shard.files for found in read_file(file, settings)]


def documents(found: list[Document | Quarantined]) -> list[Document]:
    return [item for item in found if isinstance(item, Document)]


def quarantined(found: list[Document | Quarantined]) -> list[Quarantined]:
    return [item for item in found if isinstance(item, Quarantined)]


def write_jsonl(path: Path, records: list[object]) -> Path:
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")
    return path


def test_jsonl_keeps_the_users_ids_urls_and_other_columns(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{"id": 7, "text": "one", "url": "u", "x": [1]}, {"text": "zwölf"}])
    first, second = documents(read(path))
    assert first == Document("7", "one", "a.jsonl", "u", {"x": [1]})
    assert second.id == f"a.jsonl#{path.read_bytes().index(b'{', 5)}"
    assert second.size == len("zwölf".encode())


def test_other_column_names(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{"key": "k", "body": "b", "text": "t"}])
    assert documents(read(path, text_column="body", id_column="key")) == [
        Document("k", "b", "a.jsonl", None, {"text": "t"})
    ]


def test_bad_lines_are_set_aside_with_place_and_reason(tmp_path: Path) -> None:
    lines = ['{"text": "good"}', '{"text": ', "[1]", '{"body": "b", "x": 1}', '{"text": 5}', "", '{"text": "last"}']
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    found = read(tmp_path / "a.jsonl")
    assert [item.text for item in documents(found)] == ["good", "last"]
    bad = quarantined(found)
    assert [item.place for item in bad] == [17, 27, 31, 53]
    assert bad[0].reason.startswith("not JSON: Expecting value")
    assert bad[1].reason == "a JSON list where an object is needed"
    assert bad[2].reason == "no column 'text'; columns: body, x (set text_column)"
    assert bad[3].reason == "'text' is not a string"
    assert bad[0].excerpt == '{"text": \n'


@pytest.mark.parametrize("shard_bytes", [1, 7, 64, 1000, BIG])
def test_cutting_jsonl_loses_and_doubles_nothing(tmp_path: Path, shard_bytes: int) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{"text": "x" * (i % 23) + str(i)} for i in range(100)])
    assert read(path, shard_bytes) == read(path, BIG)
    assert len(read(path)) == 100


def test_cutting_at_the_very_end_of_a_line(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{"text": "aa"}, {"text": "bb"}])
    size = path.stat().st_size // 2
    shards = plan_shards(corpus_files(CurateConfig(corpus=str(path))).files, size)
    texts = [[d.text for f in s.files for d in documents(list(read_file(f, CurateConfig())))] for s in shards]
    assert texts == [["aa"], ["bb"]]


@pytest.mark.parametrize("suffix", ["gz", "zst"])
def test_compressed(tmp_path: Path, suffix: str) -> None:
    plain = write_jsonl(tmp_path / "a.jsonl", [{"text": f"document {i}"} for i in range(1000)])
    packed = tmp_path / f"a.jsonl.{suffix}"
    content = plain.read_bytes()
    packed.write_bytes(gzip.compress(content) if suffix == "gz" else pa.compress(content, "zstd", asbytes=True))
    assert [item.text for item in documents(read(packed))] == [item.text for item in documents(read(plain))]

    packed.write_bytes(packed.read_bytes()[: packed.stat().st_size // 2])
    found = read(packed)
    assert len(quarantined(found)) == 1
    assert isinstance(found[-1], Quarantined)
    assert all(isinstance(item, Document) for item in found[:-1])
    if suffix == "gz":
        assert documents(found)


def test_other_encodings_are_read_and_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("Größe und Übermut tun selten gut.".encode("latin-1"))
    (tmp_path / "b.jsonl").write_bytes('{"text": "Größe und Übermut"}\n'.encode("latin-1"))
    first, second = documents(read(tmp_path))
    assert (first.text, first.encoding) == ("Größe und Übermut tun selten gut.", "cp1252")
    assert (second.text, second.encoding) == ("Größe und Übermut", "cp1252")


def test_a_lone_surrogate_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a\\ud800b"}\n')
    assert documents(read(tmp_path))[0].text == "a?b"


def test_text_files(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("# One\n\nText")
    (tmp_path / "empty.txt").write_text("  \n")
    (tmp_path / "binary.txt").write_bytes(b"\x00\x01" * 100)
    found = read(tmp_path)
    assert documents(found) == [Document("a.md", "# One\n\nText", "a.md")]
    assert [(item.source, item.reason) for item in quarantined(found)] == [("binary.txt", "binary, not text")]


def test_long_text_is_cut_at_paragraphs(tmp_path: Path) -> None:
    paragraphs = [f"Paragraph {i}. " + "word " * 100 for i in range(40)]
    (tmp_path / "book.txt").write_text("\n\n".join(paragraphs))
    found = documents(read(tmp_path, document_bytes=4096))
    assert len(found) > 3
    content = (tmp_path / "book.txt").read_text()
    for item in found:
        offset = int(item.id.removeprefix("book.txt#"))
        assert content[offset:].startswith(item.text)
        assert item.text.startswith("Paragraph")
    assert "".join("\n\n".join(item.text for item in found).split()) == "".join(content.split())
    assert min(len(item.text) for item in found[:-1]) >= 4096


def test_parquet(tmp_path: Path) -> None:
    table = pa.table({"id": ["a", None, "c"], "text": ["one", "two", None], "n": [1, 2, 3]})
    pq.write_table(table, tmp_path / "a.parquet")
    found = read(tmp_path / "a.parquet")
    assert documents(found) == [
        Document("a", "one", "a.parquet", None, {"n": 1}),
        Document("a.parquet#1", "two", "a.parquet", None, {"n": 2}),
    ]
    assert [(item.place, item.reason) for item in quarantined(found)] == [(2, "'text' is not a string")]


@pytest.mark.parametrize("shard_bytes", [1, 3000, BIG])
def test_cutting_parquet_at_row_groups_keeps_ids(tmp_path: Path, shard_bytes: int) -> None:
    table = pa.table({"text": [f"document number {i}" for i in range(1000)]})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=90)
    found = documents(read(tmp_path / "a.parquet", shard_bytes))
    assert [item.id for item in found] == [f"a.parquet#{i}" for i in range(1000)]
    assert [item.text for item in found] == table["text"].to_pylist()


def test_parquet_without_the_column_and_cut_short(tmp_path: Path) -> None:
    pq.write_table(pa.table({"body": ["x"], "title": ["y"]}), tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet") == [
        Quarantined(
            "a.parquet", None, "no column 'text'; columns: body, title (set text_column)",
            (tmp_path / "a.parquet").stat().st_size,
        )
    ]  # fmt: skip
    whole = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "a.parquet").write_bytes(whole[:-5])
    (only,) = quarantined(read(tmp_path / "a.parquet", shard_bytes=1))
    assert "Parquet magic bytes not found" in only.reason


def test_a_file_that_vanishes_is_set_aside(tmp_path: Path) -> None:
    settings = CurateConfig(corpus=str(tmp_path))
    (tmp_path / "a.txt").write_text("x")
    (file,) = corpus_files(settings).files
    (tmp_path / "a.txt").unlink()
    (found,) = read_file(file, settings)
    assert isinstance(found, Quarantined)
    assert found.source == "a.txt"


def test_a_lost_connection_loses_no_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def reset(file: object) -> None:
        raise ConnectionResetError("connection reset by peer")

    monkeypatch.setattr("tatara.data.read._open", reset)
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(StorageError, match=r"cannot read .*a\.txt: connection reset by peer; run again"):
        read(tmp_path)


def test_shards_depend_on_files_alone(tmp_path: Path) -> None:
    for i in range(9):
        (tmp_path / f"{i}.txt").write_text("x" * 100)
    files = corpus_files(CurateConfig(corpus=str(tmp_path))).files
    shards = plan_shards(files, 250)
    assert [[file.source for file in shard.files] for shard in shards] == [
        ["0.txt", "1.txt"], ["2.txt", "3.txt"], ["4.txt", "5.txt"], ["6.txt", "7.txt"], ["8.txt"]
    ]  # fmt: skip
    assert len({shard.key for shard in shards}) == 5
    assert plan_shards((), 250) == []


def test_documentation_of_packages() -> None:
    settings = CurateConfig()
    files = {file.source: file for file in corpus_files(settings).files if file.kind != "python"}
    (description,) = documents(
        list(read_file(files[next(s for s in files if "/pydantic-" in s and "META" in s)], settings))
    )
    assert "# Pydantic" in description.text
    assert "Requires-Dist" not in description.text
    reference = {
        item.id: item.text for item in documents(list(read_file(files["python/pydoc_data/topics.py"], settings)))
    }
    assert 'The "assert" statement' in reference["python/pydoc_data/topics.py::assert"]
