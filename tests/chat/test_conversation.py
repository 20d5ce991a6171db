"""Conversations in the shapes that people keep them in, and what a wrong row is told."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tatara.chat import Conversation, read_conversations
from tatara.chat.conversation import parse_line, write_conversations
from tatara.errors import DataError

ASKED = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]


@pytest.mark.parametrize(
    ("row", "messages", "metadata"),
    [
        ({"messages": ASKED, "answer": "4"}, ASKED, {"answer": "4"}),
        ({"messages": ASKED[:1], "metadata": {"tests": []}}, ASKED[:1], {"tests": []}),
        ({"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]}, ASKED, {}),
        ({"conversations": ASKED}, ASKED, {}),
        (
            {"system": "Be kind", "conversations": [{"from": "human", "value": "Hi"}]},
            [{"role": "system", "content": "Be kind"}, ASKED[0]],
            {},
        ),
        ({"prompt": "Hi", "completion": "Hello", "level": 2}, ASKED, {"level": 2}),
        ({"prompt": ASKED[:1], "completion": ASKED[1:]}, ASKED, {}),
        ({"prompt": "Hi"}, ASKED[:1], {}),
        ({"instruction": "Add", "input": "2 and 3", "output": "5"},
         [{"role": "user", "content": "Add\n\n2 and 3"}, {"role": "assistant", "content": "5"}], {}),
        ({"messages": [ASKED[0], {**ASKED[1], "weight": 0}]}, [ASKED[0], {**ASKED[1], "weight": 0}], {}),
    ],
    ids=["messages", "question", "sharegpt", "sharegpt-roles", "system", "completion", "lists", "prompt", "alpaca",
         "weight"],
)  # fmt: skip
def test_every_shape_becomes_messages(row: dict[str, Any], messages: list[Any], metadata: dict[str, Any]) -> None:
    found = Conversation.from_row(row, "x.jsonl:1")
    assert list(found.messages) == messages
    assert found.metadata == metadata
    assert Conversation.from_row({**row, "id": 7}, "x.jsonl:1").id == "7"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"{", "not JSON"),
        (b"\xff", "not UTF-8 at byte 0"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "must hold a JSON object, not an empty list"),
        (b'{"text": "x"}', "no messages among the keys text"),
        (b'{"messages": []}', "messages must be a list of messages, not an empty list"),
        (b'{"messages": ["x"]}', "messages[0] must be an object with role and content, not a string"),
        (b'{"messages": [{"role": "bot", "content": "x"}]}', "has the role 'bot': it must be one of system, user"),
        (b'{"messages": [{"role": "user"}]}', "message 0 (user) has nothing as content: it must be a string"),
        (b'{"messages": [{"role": "user", "content": [{"type": "text"}]}]}', "has a list as content"),
        (b'{"messages": [{"role": "user", "content": "\\ud800"}]}', "half of a surrogate pair"),
        (b'{"messages": [{"role": "user", "content": "x"}, {"role": "system", "content": "x"}]}', "must be the first"),
        (b'{"messages": [{"role": "user", "content": "x", "weight": 1}]}', "only the assistant's messages are learnt"),
        (b'{"messages": [{"role": "assistant", "content": "x", "weight": 2}]}', "weight 2: it must be 0 or 1"),
        (b'{"messages": [{"role": "assistant", "tool_calls": [1]}]}', "put the call into content"),
        (b'{"messages": [{"role": "system", "content": "x"}]}', "no message but the system's"),
        (b'{"messages": [{"role": "user", "content": "x"}], "metadata": 3}', "metadata must be an object, not a int"),
        (b'{"conversations": [{"from": "robot", "value": "x"}]}', "from is 'robot': it must be one of system, human"),
        (b'{"prompt": null}', "message 0 (user) has nothing as content"),
    ],
)  # fmt: skip
def test_a_wrong_row_is_one_line_with_its_place(line: bytes, expected: str) -> None:
    with pytest.raises(DataError) as caught:
        parse_line(line, "data.jsonl:3")
    assert str(caught.value).startswith("data.jsonl:3: ")
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_files_rows_are_read_with_their_numbers(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    rows = [json.dumps({"prompt": f"{number}\u2028", "completion": "x"}, ensure_ascii=False) for number in range(5)]
    path.write_text("\n".join([*rows[:2], "", *rows[2:]]) + "\n", encoding="utf-8")
    found = list(read_conversations(str(path)))
    assert [each.messages[0]["content"] for each in found] == [f"{number}\u2028" for number in range(5)]
    assert list(read_conversations(str(path), 1, 3)) == found[1:3]
    path.write_text("\n".join([*rows, "nonsense"]))
    with pytest.raises(DataError, match=r"d.jsonl:6: not JSON"):
        list(read_conversations(str(path)))


TEXT = st.text(st.characters(exclude_categories=["Cs"]))


@given(st.lists(st.tuples(st.sampled_from(["user", "assistant", "tool"]), TEXT), min_size=1))
@settings(max_examples=30)
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, said: list[tuple[str, str]]) -> None:
    path = tmp_path_factory.mktemp("written") / "c.jsonl"
    each = Conversation("é", tuple({"role": role, "content": content} for role, content in said), {"n": [1]})
    write_conversations(path, [each])
    assert list(read_conversations(str(path))) == [each]
