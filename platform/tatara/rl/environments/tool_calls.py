"""Finding the tool calls in a turn of the model."""

import json
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

_HERMES = re.compile(r"<tool_call>(.*?)(?:</tool_call>|\Z)", re.DOTALL)
_FENCED = re.compile(r"```(?:python|py)[ \t]*\n(.*?)```", re.DOTALL)


@dataclass(frozen=True)
class ToolCall:
    """A call as the model wrote it."""

    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True)
class BadCall:
    """A call that cannot be made."""

    reason: str
    """What the model is told."""


def find_calls(turn: str, formats: Collection[str]) -> list[ToolCall | BadCall]:
    """The calls of a turn in their order.

    Args:
        turn: The model's turn, without its stop token.
        formats: ``hermes`` (Nous Research's Hermes function calling, also Qwen's) and ``fenced``.
    """
    found: list[tuple[int, ToolCall | BadCall]] = []
    hermes = list(_HERMES.finditer(turn)) if "hermes" in formats else []
    found += [(match.start(), _read(match[1])) for match in hermes]
    for match in _FENCED.finditer(turn) if "fenced" in formats else ():
        # A block inside of a JSON call is an argument of that call.
        if not any(call.start() <= match.start() < call.end() for call in hermes):
            found.append((match.start(), ToolCall("python", {"code": match[1]})))
    return [call for _, call in sorted(found, key=lambda item: item[0])]


def _read(text: str) -> ToolCall | BadCall:
    try:
        call = json.loads(text)
    except (ValueError, RecursionError) as error:
        return BadCall(f"the tool call is not JSON: {error}")
    if not isinstance(call, dict) or not isinstance(call.get("name"), str):
        return BadCall('a tool call is an object with a "name" and "arguments"')
    arguments = call.get("arguments", {})
    if isinstance(arguments, str):
        # Some models write the arguments as a string that holds JSON, as OpenAI's interface does.
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            return BadCall('"arguments" must be an object')
    if not isinstance(arguments, dict):
        return BadCall('"arguments" must be an object')
    return ToolCall(call["name"], arguments)
