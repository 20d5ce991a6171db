"""Take over a Jinja template that somebody else has written, and find out how its turns end."""

import json
import re
from pathlib import Path
from typing import Any

from tatara.chat import jinja
from tatara.chat.segments import mark, split
from tatara.chat.template import JINJA, ChatTemplate
from tatara.errors import ConfigError

_NAMED = ("bos_token", "eos_token", "pad_token", "unk_token")


def adopt(text: str, name: str, tokenizer: Path) -> ChatTemplate:
    """A template of the user's own, for a tokenizer.

    Args:
        text: The Jinja template.
        name: What it is called.
        tokenizer: Directory with ``tokenizer.json`` and ``tokenizer_config.json``.

    Raises:
        ConfigError: It cannot be split into messages, or no special token ends the assistant's turn.
    """
    settings = _settings(tokenizer)
    wanted = jinja.variables(text)
    named = {key: settings[key] for key in _NAMED if key in wanted and settings.get(key)}
    shape = ("user", "assistant", "user", "assistant")
    found = split(lambda messages: jinja.render(text, name, messages, False, named), shape, name)
    special = _special_tokens(tokenizer)
    ends = {next((token for token in special if piece.startswith(token)), None) for piece in (found[2], found[4])}
    stop = tuple(sorted(token for token in ends if token is not None))
    if None in ends or not stop:
        raise ConfigError(
            f"the chat template {name} ends the assistant's turn with no special token of the tokenizer: a model could "
            "not learn where to stop; let one follow the content of assistant messages"
        )
    whole = "".join(found) + jinja.render(text, name, mark(("user",)), True, named)
    # Longest first, so that a token inside another one is not taken for it.
    pattern = "|".join(re.escape(token) for token in sorted(special, key=len, reverse=True))
    used = tuple(dict.fromkeys(re.findall(pattern, whole)))
    return ChatTemplate(name, 1, text, used, stop, named)


def own_template(directory: Path) -> str | None:
    """The Jinja template that a tokenizer from elsewhere brings, if it brings one."""
    path = directory / JINJA
    if path.is_file():
        with path.open(encoding="utf-8", newline="") as file:
            return file.read()
    found = _settings(directory).get("chat_template")
    return found if isinstance(found, str) else None


def _settings(directory: Path) -> dict[str, Any]:
    """What ``special_tokens_map.json`` and ``tokenizer_config.json`` say, tokens as plain strings."""
    found: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        path = directory / name
        if path.is_file():
            try:
                found |= json.loads(path.read_text(encoding="utf-8"))
            except ValueError as error:
                raise ConfigError(f"{path} is not JSON: {error}") from None
    return {key: value["content"] if isinstance(value, dict) and "content" in value else value
            for key, value in found.items()}  # fmt: skip


def _special_tokens(directory: Path) -> list[str]:
    added = json.loads((directory / "tokenizer.json").read_text(encoding="utf-8")).get("added_tokens", [])
    return [str(token["content"]) for token in added if token.get("special")]
