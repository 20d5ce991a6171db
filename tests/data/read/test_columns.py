from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from reading import BIG, documents, quarantined, read, write_jsonl
from tatara.data.document import Document, Quarantined
from tatara.data.read.config import ReadConfig
from tatara.data.read.reader import read_file
from tatara.data.read.shards import plan_shards
from tatara.data.sources import corpus_files


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
    shards = plan_shards(corpus_files(str(path)).files, size)
    texts = [[d.text for f in s.files for d in documents(list(read_file(f, ReadConfig())))] for s in shards]
    assert texts == [["aa"], ["bb"]]


def test_a_lone_surrogate_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a\\ud800b"}\n')
    assert documents(read(tmp_path))[0].text == "a?b"


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


def test_surrogates_are_replaced_wherever_they_are(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(
        r'{"text": "a\ud83d\ude00b\ud800", "id": "i\udfff", "m\ud800": [{"x": "\udc00"}]}'
    )
    (found,) = documents(read(tmp_path))
    assert found.text == "a😀b?"
    assert (found.id, found.metadata) == ("i?", {"m?": [{"x": "?"}]})


def test_ids_may_repeat_and_be_of_any_type(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{"id": i, "text": "t"} for i in (1, 1, "1", 1.5, True, [1], "", None)])
    ids = [item.id for item in documents(read(path))]
    assert ids[:6] == ["1", "1", "1", "1.5", "True", "[1]"]
    assert all(item.startswith("a.jsonl#") for item in ids[6:])


def test_columns_of_pages_urls_and_languages(tmp_path: Path) -> None:
    record = {"html": "<p>Grüße", "text": "old", "link": "http://a/", "lang": "de"}
    path = write_jsonl(tmp_path / "a.jsonl", [record, {"html": 5}])
    found = read(path, html_column="html", url_column="link", language_column="lang")
    (page,) = documents(found)
    assert (page.content, page.text, page.url, page.language) == ("<p>Grüße".encode(), "", "http://a/", "de")
    assert page.metadata == {}
    assert [item.reason for item in quarantined(found)] == ["'html' is neither a string nor bytes"]
    table = pa.table({"html": [b"<p>\xff", None], "id": ["x", "y"]})
    pq.write_table(table, tmp_path / "b.parquet")
    found = read(tmp_path / "b.parquet", html_column="html")
    assert [(item.id, item.content) for item in documents(found)] == [("x", b"<p>\xff")]


def test_parquet_with_a_column_of_another_type_names_those_there_are(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": [1, 2], "body": ["a", "b"]}), tmp_path / "a.parquet")
    (bad,) = read(tmp_path)
    assert isinstance(bad, Quarantined)
    assert bad.reason == "'text' is of type int64, not a string; columns: text (int64), body (string) (set text_column)"


def test_parquet_with_one_string_that_is_not_utf8(tmp_path: Path) -> None:
    raw = pa.array([b"one", b"t\xffo", b"three"])
    pq.write_table(pa.table({"text": raw.view(pa.string())}), tmp_path / "a.parquet")
    found = read(tmp_path)
    assert [item.text for item in documents(found)] == ["one", "three"]
    (bad,) = quarantined(found)
    assert bad.place == 1
    assert "not UTF-8" in bad.reason


def test_a_damaged_row_group_costs_no_other(tmp_path: Path) -> None:
    table = pa.table({"text": [f"document number {i} " + "x" * i for i in range(1000)]})
    path = tmp_path / "a.parquet"
    pq.write_table(table, path, row_group_size=100, compression="zstd")
    column = pq.ParquetFile(path).metadata.row_group(4).column(0)
    content = bytearray(path.read_bytes())
    start = column.dictionary_page_offset or column.data_page_offset
    content[start : start + column.total_compressed_size] = b"\xff" * column.total_compressed_size
    path.write_bytes(content)
    found = read(path)
    assert {item.id for item in documents(found)} == {f"a.parquet#{i}" for i in range(1000) if not 400 <= i < 500}
    assert [item.place for item in quarantined(found)] == [400]


def test_nested_metadata_stays_nested(tmp_path: Path) -> None:
    table = pa.table({"text": ["a"], "meta": [{"tags": ["x", "y"], "n": {"deep": 1}}]})
    pq.write_table(table, tmp_path / "a.parquet")
    assert documents(read(tmp_path))[0].metadata == {"meta": {"tags": ["x", "y"], "n": {"deep": 1}}}
