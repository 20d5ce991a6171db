import gzip
import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from tatara.data.decontaminate.benchmarks import read_items
from tatara.errors import DataError

QUESTION = "How many eggs does the duck lay?"


def texts(path: Path, fields: tuple[str, ...] = ()) -> list[tuple[str, str]]:
    return [text for item in read_items("b", str(path), fields) for text in item.texts]


def test_every_format_holds_the_same_items(tmp_path: Path) -> None:
    rows = [{"id": str(number), "Question": f"{QUESTION} {number}", "answer": "16, or so"} for number in range(3)]
    expected = [pair for row in rows for pair in (("question", row["Question"]), ("answer", row["answer"]))]
    lines = "\n".join(map(json.dumps, rows))
    table = "\ufeffid,Question,answer\n" + "".join(f'{row["id"]},{row["Question"]},"{row["answer"]}"\n' for row in rows)
    (tmp_path / "a.jsonl").write_text(lines + "\n\n")
    (tmp_path / "b.json").write_text(json.dumps({"canary": "x", "data": {"examples": rows}}))
    (tmp_path / "c.json").write_text(lines)
    (tmp_path / "d.csv").write_text(table)
    (tmp_path / "e.tsv").write_text(table.replace(', or so"', ' or so"').replace(",", "\t"))
    (tmp_path / "f.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "g.parquet")
    for name in ("a.jsonl", "b.json", "c.json", "d.csv", "f.jsonl.gz", "g.parquet"):
        assert texts(tmp_path / name) == expected, name
        assert [item.id for item in read_items("b", str(tmp_path / name))] == ["0", "1", "2"]
    assert [text for field, text in texts(tmp_path / "e.tsv") if field == "question"] == [r["Question"] for r in rows]
    (tmp_path / "h.txt").write_text(f"{QUESTION}\n\n{QUESTION}\n")
    assert texts(tmp_path / "h.txt") == [("text", QUESTION)] * 2


def test_nested_questions_chat_messages_and_choices(tmp_path: Path) -> None:
    qas = {"data": [{"title": "t", "paragraphs": [{"context": "c", "qas": [{"question": QUESTION, "id": "q1"}]}]}]}
    (tmp_path / "a.json").write_text(json.dumps(qas))
    chat = {"id": 7, "question": [[{"role": "user", "content": QUESTION}]], "choice0": "one", "choice1": "two"}
    (tmp_path / "b.jsonl").write_text(json.dumps(chat))
    (nested,) = read_items("b", str(tmp_path / "a.json"))
    assert (nested.id, nested.texts) == ("q1", (("question", QUESTION),))
    (said,) = read_items("b", str(tmp_path / "b.jsonl"))
    assert (said.id, said.texts, said.choices) == ("7", (("question", QUESTION),), ("one", "two"))
    assert said.with_choices("Q")[1] == "Q\na one\nb two"


def test_a_table_without_a_header_reads_as_mmlu_is(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(f"{QUESTION},one,two,three,four,B\n")
    (item,) = read_items("b", str(tmp_path / "a.csv"))
    assert item.texts == (("question", QUESTION), ("answer", "B"))
    assert item.choices == ("one", "two", "three", "four")
    assert read_items("b", str(tmp_path / "a.csv"), ["1"])[0].texts == (("1", "one"),)


def test_fields_directories_globs_and_repeated_ids(tmp_path: Path) -> None:
    for name in ("x", "y"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"id": 1, "question": name, "hint": f"hint {name}"}))
    (tmp_path / "README.md").write_text("not a benchmark")
    items = read_items("b", str(tmp_path), ["Hint"])
    assert [(item.id, item.texts) for item in items] == [("1", (("hint", "hint x"),)), ("1#2", (("hint", "hint y"),))]
    assert [item.texts[0][1] for item in read_items("b", str(tmp_path / "y*"))] == ["y"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.jsonl", None, "missing.jsonl: no such file"),
        ("empty.jsonl", b"", "holds no item with text in a known field"),
        ("broken.jsonl", b'{"question": "a"}\n{"question": ', "cannot read .*broken.jsonl: "),
        ("broken.json", b"[1, 2", "cannot read .*broken.json: "),
        ("broken.csv.gz", b"not gzip", "cannot read .*broken.csv.gz: "),
        ("cut.csv.gz", gzip.compress(b"question\nwhy\n" * 99, mtime=0)[:-12], "cannot read .*cut.csv.gz: "),
        ("broken.parquet", b"PAR1", "cannot read .*broken.parquet: "),
        ("latin.txt", "Füße".encode("latin-1"), "cannot read .*latin.txt: "),
        ("other.pdf", b"x", "no readable file"),
        ("keys.jsonl", b'{"foo": "bar"}', "name its keys under fields"),
    ],
)
def test_a_benchmark_that_cannot_be_read_is_named_in_one_line(
    tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read_items("bench", str(tmp_path / name))
    assert "benchmark bench" in str(caught.value)
    assert "\n" not in str(caught.value)
