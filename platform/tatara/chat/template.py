"""Chat templates as versioned artifacts: files beside a tokenizer, and the hash that goes with a model."""

import hashlib
import json
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from tatara.chat import jinja
from tatara.chat.jinja import Messages
from tatara.errors import ArtifactError, ConfigError

JINJA = "chat_template.jinja"
"""The file that transformers and vLLM read by themselves."""
DESCRIPTION = "chat_template.json"
"""Name, version, tokens and hash of it."""
BEGIN_OF_TEXT = "<|begin_of_text|>"


@dataclass(frozen=True)
class _BuiltIn:
    version: int
    special_tokens: tuple[str, ...]
    stop_tokens: tuple[str, ...]


BUILT_IN = {
    "llama3": _BuiltIn(1, ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"), ("<|eot_id|>",)),
    "chatml": _BuiltIn(1, ("<|im_start|>", "<|im_end|>"), ("<|im_end|>",)),
}
"""The templates that come with Tatara: Llama 3's headers (its model card, "Prompt format"; tool messages have the role
``ipython``) and ChatML (openai/openai-python v0.27, chatml.md)."""


@dataclass(frozen=True)
class ChatTemplate:
    """How a conversation becomes text.

    Attributes:
        name: A built-in's name, or what somebody called their own.
        version: Of the template under this name.
        text: The Jinja template.
        special_tokens: Tokens that it writes, and that nothing in a message may become.
        stop_tokens: Those of them that end the assistant's turn.
        named: ``bos_token`` and others that the template asks for by name.
    """

    name: str
    version: int
    text: str
    special_tokens: tuple[str, ...]
    stop_tokens: tuple[str, ...]
    named: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def built_in(cls, name: str, vocabulary: Container[str] = ()) -> "ChatTemplate":
        """A template that comes with Tatara.

        Args:
            name: ``llama3`` or ``chatml``.
            vocabulary: Tokens that the tokenizer has; ``<|begin_of_text|>`` is written only if it is one of them.

        Raises:
            ConfigError: There is none of that name.
        """
        if name not in BUILT_IN:
            raise ConfigError(f"no chat template {name!r} comes with Tatara: there are {', '.join(sorted(BUILT_IN))}")
        found = BUILT_IN[name]
        text = resources.files("tatara.chat").joinpath("templates", f"{name}.jinja").read_text(encoding="utf-8")
        special = found.special_tokens
        if BEGIN_OF_TEXT in text.partition("\n")[0]:
            if BEGIN_OF_TEXT in vocabulary:
                special = (BEGIN_OF_TEXT, *special)
            else:
                text = text.partition("\n")[2]
        return cls(name, found.version, text, special, found.stop_tokens)

    @classmethod
    def load(cls, directory: str | Path) -> "ChatTemplate":
        """The template of a tokenizer's or model's directory.

        Raises:
            ArtifactError: There is none, or its two files do not belong together; then with both hashes.
        """
        found = find_template(directory)
        if found is None:
            raise ArtifactError(
                f"{directory} holds no chat template ({DESCRIPTION} and {JINJA}): `tatara render` adds one"
            )
        return found

    @property
    def sha256(self) -> str:
        """Hash of everything that decides what is rendered and where a turn ends, hexadecimal."""
        parts = [self.text, self.special_tokens, self.stop_tokens, sorted(self.named.items())]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def render(self, messages: Messages, generation: bool = False) -> str:
        """A conversation as text.

        Args:
            messages: Each with ``role`` and ``content``.
            generation: Whether the header of the assistant's next turn comes at the end.

        Raises:
            DataError: The template refuses the conversation.
        """
        return jinja.render(self.text, self.name, messages, generation, self.named)

    def save(self, directory: Path) -> None:
        """Write both files beside a tokenizer."""
        (directory / JINJA).write_text(self.text, encoding="utf-8", newline="")
        text = json.dumps(self.description(), indent=1, ensure_ascii=False) + "\n"
        (directory / DESCRIPTION).write_text(text, encoding="utf-8")

    def description(self) -> dict[str, Any]:
        """What ``chat_template.json`` says."""
        return {
            "name": self.name,
            "version": self.version,
            "sha256": self.sha256,
            "special_tokens": list(self.special_tokens),
            "stop_tokens": list(self.stop_tokens),
            "named_tokens": dict(self.named),
        }


def find_template(directory: str | Path) -> ChatTemplate | None:
    """The template of a directory; None where nothing describes one.

    Raises:
        ArtifactError: Its two files do not belong together (with both hashes), or one is missing or unreadable.
    """
    path, text_path = Path(directory, DESCRIPTION), Path(directory, JINJA)
    if not path.is_file():
        return None
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
        with text_path.open(encoding="utf-8", newline="") as file:
            text = file.read()
        template = ChatTemplate(
            str(described["name"]),
            int(described["version"]),
            text,
            tuple(map(str, described["special_tokens"])),
            tuple(map(str, described["stop_tokens"])),
            dict(described.get("named_tokens", {})),
        )
        recorded = str(described["sha256"])
    except OSError as error:
        raise ArtifactError(f"cannot read the chat template {error.filename}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{path} does not describe a chat template ({type(error).__name__}: {error})") from None
    check_same(recorded, template.sha256, f"{text_path} is not what {DESCRIPTION} beside it describes")
    return template


def check_same(expected: "ChatTemplate | str", found: "ChatTemplate | str", where: str) -> None:
    """Refuse two chat templates that are not the same.

    Args:
        expected: A template, or its SHA-256.
        found: The other one.
        where: What the difference means, or what the two belong to; begins the message.

    Raises:
        ArtifactError: They differ; one line with both hashes.
    """
    first, second = (item if isinstance(item, str) else item.sha256 for item in (expected, found))
    if first != second:
        raise ArtifactError(
            f"{where}: chat template {_named(expected)} is expected, but {_named(found)} is there; render and train "
            "with the same one, or put the right files back"
        )


def _named(template: "ChatTemplate | str") -> str:
    return template if isinstance(template, str) else f"{template.name}@{template.version} {template.sha256}"
