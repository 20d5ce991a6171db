"""Which chat template a tokenizer gets."""

import json
from pathlib import Path

from tatara import storage
from tatara.chat import ChatTemplate, check_same, find_template
from tatara.chat.adopting import adopt, own_template
from tatara.errors import ConfigError
from tatara.posttrain.render import RenderConfig

DEFAULT = "chatml"


def choose_template(config: RenderConfig, tokenizer: Path) -> ChatTemplate:
    """The template that conversations are rendered with.

    Args:
        config: What is asked for.
        tokenizer: The tokenizer's directory.

    Raises:
        ArtifactError: The tokenizer goes with another template already; both hashes are named.
        ConfigError: There is none, or it cannot be used.
    """
    bound = find_template(tokenizer)
    if config.template_file is not None:
        if config.template != "auto":
            raise ConfigError(f"template={config.template} and template_file={config.template_file}: give one of them")
        chosen = adopt(read_jinja(config.template_file), Path(config.template_file).stem, tokenizer)
    elif config.template in ("auto", "own"):
        chosen = bound or _own(config, tokenizer)
    else:
        chosen = ChatTemplate.built_in(config.template, vocabulary(tokenizer))
    if bound is not None:
        check_same(bound, chosen, f"{tokenizer} was trained with a chat template already")
    return chosen


def read_jinja(path: str) -> str:
    """A user's template.

    Raises:
        ConfigError: It is not UTF-8.
        StorageError: It cannot be read.
    """
    try:
        return storage.read_bytes(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 at byte {error.start}: convert the template") from None


def vocabulary(tokenizer: Path) -> set[str]:
    """The added tokens of a tokenizer's directory, among which special tokens are."""
    try:
        described = json.loads((tokenizer / "tokenizer.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read the tokenizer in {tokenizer}: {error}") from None
    return {str(token["content"]) for token in described.get("added_tokens", [])}


def _own(config: RenderConfig, tokenizer: Path) -> ChatTemplate:
    text = own_template(tokenizer)
    if text is not None:
        return adopt(text, "own", tokenizer)
    if config.template == "own":
        raise ConfigError(f"the tokenizer in {tokenizer} brings no chat template: choose chatml or llama3")
    return ChatTemplate.built_in(DEFAULT, vocabulary(tokenizer))
