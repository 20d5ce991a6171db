"""Whether an answer is JSON of a wanted shape."""

import json
import re
from collections.abc import Callable
from typing import Any, NoReturn

from tatara.errors import ConfigError, DataError, require
from tatara.rl.rewards.completion import Completion
from tatara.rl.rewards.kinds import JsonConfig
from tatara.rl.rewards.metadata import needed

_BLOCK = re.compile(r"```(?:json)?[ \t]*\n(.*?)```", re.DOTALL)


def build(config: JsonConfig) -> Callable[[Completion], float]:
    """The reward of a configuration.

    Raises:
        ConfigError: The schema is not one.
        MissingExtraError: A schema is given and jsonschema is not installed.
    """
    validator = _validator(config.json_schema, ConfigError, "json_schema") if config.json_schema is not None else None
    if config.key is not None:
        require("jsonschema", "rl")

    def reward(completion: Completion) -> float:
        value, found = read_json(completion.answer, config.where)
        if not found:
            return 0.0
        if config.required and not (isinstance(value, dict) and set(config.required) <= set(value)):
            return 0.0
        check = validator
        if config.key is not None:
            where = f"'{config.key}' of prompt '{completion.prompt.id}'"
            check = _validator(needed(completion.prompt, config.key), DataError, where)
        return float(check is None or check.is_valid(value))

    return reward


def read_json(text: str, where: str) -> tuple[Any, bool]:
    """The value that a text holds, and whether it holds one.

    Repeated keys, ``NaN`` and ``Infinity``, which Python's reader accepts, are not JSON.

    Args:
        text: The model's last turn.
        where: As `JsonConfig.where`.
    """
    blocks = _BLOCK.findall(text) if where == "block" else []
    try:
        return json.loads(blocks[-1] if blocks else text, object_pairs_hook=_unique, parse_constant=_refuse), True
    except (ValueError, RecursionError):
        return None, False


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a repeated key")
    return found


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _validator(schema: Any, error: type[ConfigError] | type[DataError], where: str) -> Any:
    jsonschema = require("jsonschema", "rl")
    kind = jsonschema.Draft202012Validator
    try:
        kind.check_schema(schema)
    except jsonschema.SchemaError as problem:
        raise error(f"{where}: not a JSON schema: {problem.message}") from None
    return kind(schema)
