"""The ``dialogues`` stage: what it writes from arithmetic and from files."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from tatara.artifact import Artifact
from tatara.chat import Conversation, read_conversations
from tatara.errors import DataError
from tatara.posttrain import dialogues_run
from tatara.posttrain.dialogues import STAGE, DialoguesConfig
from tatara.stage import standalone


def make(root: Path, **given: Any) -> Artifact:
    config = DialoguesConfig.model_validate(given)
    with standalone(STAGE, config, root=root) as attempt:
        return attempt.commit(dialogues_run.run(config, attempt.stage_run))


def read(artifact: Artifact, split: str) -> list[Conversation]:
    return list(read_conversations(artifact.file_url(f"{split}.jsonl")))


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    return path


def test_arithmetic_is_written_with_counts_and_hashes(tmp_path: Path) -> None:
    made = make(tmp_path, arithmetic={"train": 50, "validation": 10})
    assert made.metrics == {"train_conversations": 50, "validation_conversations": 10, "skipped_rows": 0}
    described = made.read_json("conversations.json")
    assert described["source"] == "arithmetic"
    for split, count in (("train", 50), ("validation", 10)):
        data = made.local(f"{split}.jsonl").read_bytes()
        assert described[split]["sha256"] == hashlib.sha256(data).hexdigest()
        assert described[split]["conversations"] == described[split]["with_answer"] == count
        assert described[split]["messages"] == {"assistant": count, "user": count}
        assert len(read(made, split)) == count
    assert (
        make(tmp_path / "again", arithmetic={"train": 50, "validation": 10}).read_json("conversations.json")
        == described
    )


def test_a_question_is_never_in_both_splits(tmp_path: Path) -> None:
    rows = [{"prompt": f"question {number % 40}", "completion": f"answer {number}"} for number in range(120)]
    path = write(tmp_path / "d.jsonl", [*rows, rows[0]])
    made = make(tmp_path, files=[str(path)], validation_fraction=0.3)
    asked = {split: {each.messages[0]["content"] for each in read(made, split)} for split in ("train", "validation")}
    assert len(asked["train"]) + len(asked["validation"]) == 40
    assert not asked["train"] & asked["validation"]
    assert made.metrics["train_conversations"] + made.metrics["validation_conversations"] == 120
    assert len(asked["validation"]) in range(4, 21)


def test_files_of_several_shapes_are_one_artifact(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", [{"prompt": "What?", "answer": "4"}])
    write(tmp_path / "b.jsonl", [{"id": "mine", "instruction": "Do", "output": "Done"}])
    made = make(tmp_path, files=[str(tmp_path / "*.jsonl")])
    found = read(made, "train") + read(made, "validation")
    assert len(read(made, "train")) == len(read(made, "validation")) == 1, "one is held out however few there are"
    assert {each.metadata.get("answer") for each in found} == {"4", None}
    assert "mine" in {each.id for each in found}


def test_the_content_of_files_is_what_identifies_them(tmp_path: Path) -> None:
    rows = [{"prompt": str(number)} for number in range(3)]
    first, second = write(tmp_path / "first.jsonl", rows), write(tmp_path / "second.jsonl", rows)
    one, two = (DialoguesConfig(files=(str(path),)) for path in (first, second))
    assert one.identity() == two.identity()
    assert [file.sha256 for file in dialogues_run.sources(one)] == [file.sha256 for file in dialogues_run.sources(two)]
    assert dialogues_run.sources(DialoguesConfig()) == []


def test_a_bad_row_stops_or_is_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "d.jsonl", [{"prompt": "a"}, {"prompt": 3}, {"prompt": "b"}, {"prompt": "c"}])
    with pytest.raises(DataError, match=r"d.jsonl:2: message 0 \(user\) has a int as content.*--bad_rows skip"):
        make(tmp_path, files=[str(path)])
    made = make(tmp_path, files=[str(path)], bad_rows="skip")
    assert made.metrics["skipped_rows"] == 1
    assert len(read(made, "train")) + len(read(made, "validation")) == 3


def test_an_id_that_two_rows_have_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "d.jsonl", [{"id": 1, "prompt": "a"}, {"id": 1, "prompt": "b"}])
    with pytest.raises(DataError, match=r"d.jsonl:2: id '1' is that of .*d.jsonl:1"):
        make(tmp_path, files=[str(path)])


def test_one_question_is_too_few(tmp_path: Path) -> None:
    path = write(tmp_path / "d.jsonl", [{"prompt": "a"}])
    with pytest.raises(DataError, match="1 different question"):
        make(tmp_path, files=[str(path)])
