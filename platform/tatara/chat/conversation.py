"""Conversations as people keep them in JSON lines: read in any of the usual shapes, written in one."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tatara import storage
from tatara.errors import DataError

ROLES = ("system", "user", "assistant", "tool")
Message = dict[str, Any]
"""``role``, ``content`` and, of an assistant's message, ``weight``: 0 where it is not to be learnt."""

# How ShareGPT and what came after it name roles.
_SHAREGPT = {
    "system": "system", "human": "user", "user": "user", "gpt": "assistant", "chatgpt": "assistant",
    "assistant": "assistant", "model": "assistant", "tool": "tool", "function_response": "tool", "observation": "tool",
}  # fmt: skip
_SHAPES = ("messages", "conversations", "prompt", "instruction")
_OWN_KEYS = {"id", "metadata", "messages", "conversations", "system"}


@dataclass(frozen=True)
class Conversation:
    """Messages in order, and what is known of them.

    Attributes:
        id: The user's own, or a hash of the messages.
        messages: Each with ``role`` and ``content``; one of the assistant may have ``weight`` 0 or 1. The last may be
            the user's: then it is a question without an answer.
        metadata: Whatever a reward or an environment reads: ``answer``, ``tests``, ...
    """

    id: str
    messages: tuple[Message, ...]
    metadata: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_row(cls, row: Any, where: str) -> "Conversation":
        """A conversation from a decoded line.

        Args:
            row: One of the shapes ``messages`` (OpenAI), ``conversations`` (ShareGPT: ``from`` and ``value``),
                ``prompt`` with or without ``completion`` (TRL), and ``instruction``, ``input``, ``output`` (Alpaca).
                Keys of no meaning here become metadata.
            where: File and line, for errors.

        Raises:
            DataError: One line that says what is wrong, where, and how to put it right.
        """
        if not isinstance(row, Mapping):
            raise DataError(f"{where}: a line must hold a JSON object, not {_kind(row)}")
        shape = next((name for name in _SHAPES if name in row), None)
        if shape is None:
            raise DataError(
                f"{where}: no messages among the keys {', '.join(map(str, row)) or '(none)'}: give messages, "
                "conversations, prompt and completion, or instruction and output"
            )
        read = {
            "messages": _openai,
            "conversations": _sharegpt,
            "prompt": _prompt_completion,
            "instruction": _alpaca,
        }[shape]
        messages, used = read(row, where)
        system = row.get("system")
        if isinstance(system, str) and system and messages and messages[0]["role"] != "system":
            messages = [{"role": "system", "content": system}, *messages]
        _check(messages, where)
        given = row.get("metadata") or {}
        if not isinstance(given, Mapping):
            raise DataError(f"{where}: metadata must be an object, not {_kind(given)}")
        metadata = {str(key): value for key, value in row.items() if key not in _OWN_KEYS | used} | dict(given)
        id = row.get("id")
        return cls(_hash(messages) if id is None else str(id), tuple(messages), metadata)

    def row(self) -> dict[str, Any]:
        """The conversation in the one shape that is written."""
        found: dict[str, Any] = {"id": self.id, "messages": list(self.messages)}
        return found | ({"metadata": self.metadata} if self.metadata else {})

    @property
    def prompt(self) -> tuple[Message, ...]:
        """The messages before the last answer; all of them where the last one is not the assistant's."""
        return self.messages[:-1] if self.messages[-1]["role"] == "assistant" else self.messages


def read_conversations(path: str, first: int = 0, count: int | None = None) -> Iterator[Conversation]:
    """Conversations of a JSON lines file, a path or URL; empty lines are passed over.

    Args:
        path: The file.
        first: Lines to pass over.
        count: Lines to read at most; None reads to the end.

    Raises:
        DataError: A row is wrong, with file, line number and the fix.
        StorageError: The file cannot be read.
    """
    lines = storage.read_bytes(path).split(b"\n")
    for number, line in enumerate(lines[first : None if count is None else first + count], start=first + 1):
        if line.strip():
            yield parse_line(line, f"{path}:{number}")


def parse_line(line: bytes, where: str) -> Conversation:
    """A conversation from a line of JSON.

    Raises:
        DataError: See `Conversation.from_row`.
    """
    try:
        row = json.loads(line)
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: not UTF-8 at byte {error.start}: convert the file") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not JSON ({error}): write one object per line") from None
    return Conversation.from_row(row, where)


def write_conversations(path: Path, conversations: Iterator[Conversation] | list[Conversation]) -> None:
    """Write JSON lines that `read_conversations` reads."""
    with storage.errors_named(str(path), "write"), path.open("w", encoding="utf-8", newline="\n") as file:
        for each in conversations:
            file.write(json.dumps(each.row(), ensure_ascii=False) + "\n")


Found = tuple[list[Message], set[str]]
"""Messages, and the keys that they were read from."""


def _openai(row: Mapping[str, Any], where: str) -> Found:
    return _messages(row["messages"], "messages", where), set()


def _messages(given: Any, key: str, where: str) -> list[Message]:
    found: list[Message] = []
    for number, item in enumerate(_objects(given, key, where)):
        place = f"{where}: {key}[{number}]"
        if item.get("tool_calls"):
            raise DataError(f"{place} has tool_calls, which templates here do not write: put the call into content")
        message = {"role": item.get("role"), "content": item.get("content")}
        if item.get("weight") is not None:
            message["weight"] = item["weight"]
        found.append(message)
    return found


def _sharegpt(row: Mapping[str, Any], where: str) -> Found:
    found = []
    for number, item in enumerate(_objects(row["conversations"], "conversations", where)):
        if "role" in item and "from" not in item:
            return _messages(row["conversations"], "conversations", where), set()
        said = item.get("from")
        if said not in _SHAREGPT:
            raise DataError(
                f"{where}: conversations[{number}].from is {said!r}: it must be one of {', '.join(_SHAREGPT)}"
            )
        message = {"role": _SHAREGPT[said], "content": item.get("value")}
        if item.get("weight") is not None:
            message["weight"] = item["weight"]
        found.append(message)
    return found, set()


def _prompt_completion(row: Mapping[str, Any], where: str) -> Found:
    found: list[Message] = []
    for key, role in (("prompt", "user"), ("completion", "assistant")):
        given = row.get(key)
        if isinstance(given, list):
            found += _messages(given, key, where)
        elif given is not None or key == "prompt":
            found.append({"role": role, "content": given})
    return found, {"prompt", "completion"}


def _alpaca(row: Mapping[str, Any], where: str) -> Found:
    asked = row["instruction"]
    if row.get("input"):
        asked = f"{asked}\n\n{row['input']}"
    found: list[Message] = [{"role": "user", "content": asked}]
    if row.get("output") is not None:
        found.append({"role": "assistant", "content": row["output"]})
    return found, {"instruction", "input", "output"}


def _objects(given: Any, key: str, where: str) -> list[Mapping[str, Any]]:
    if not isinstance(given, list) or not given:
        raise DataError(f"{where}: {key} must be a list of messages, not {_kind(given)}")
    for number, item in enumerate(given):
        if not isinstance(item, Mapping):
            raise DataError(f"{where}: {key}[{number}] must be an object with role and content, not {_kind(item)}")
    return given


def _check(messages: list[Message], where: str) -> None:
    for number, message in enumerate(messages):
        place, role, content = f"{where}: message {number}", message["role"], message["content"]
        if role not in ROLES:
            raise DataError(f"{place} has the role {role!r}: it must be one of {', '.join(ROLES)}")
        if not isinstance(content, str):
            raise DataError(f"{place} ({role}) has {_kind(content)} as content: it must be a string")
        try:
            content.encode("utf-8")
        except UnicodeEncodeError:
            raise DataError(f"{place} ({role}) has half of a surrogate pair: write the whole character") from None
        if role == "system" and number:
            raise DataError(f"{place} is a system message: it must be the first one")
        weight = message.get("weight")
        if weight is not None and role != "assistant":
            raise DataError(f"{place} ({role}) has a weight: only the assistant's messages are learnt, leave it out")
        if weight is not None and (isinstance(weight, bool) or weight not in (0, 1)):
            raise DataError(f"{place} has weight {weight!r}: it must be 0 or 1")
    if all(message["role"] == "system" for message in messages):
        raise DataError(f"{where}: there is no message but the system's: give at least a question")


def _kind(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, list):
        return "a list" if value else "an empty list"
    return {dict: "an object", str: "a string", bool: "true or false"}.get(type(value), f"a {type(value).__name__}")


def _hash(messages: list[Message]) -> str:
    return hashlib.sha256(json.dumps(messages, ensure_ascii=False, sort_keys=True).encode()).hexdigest()[:16]
