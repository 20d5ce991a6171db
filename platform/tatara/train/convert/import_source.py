"""The files of a Hugging Face directory that an import reads, and the architecture that they describe."""

import json
from typing import TYPE_CHECKING, Any

from tatara import storage
from tatara.errors import ConfigError, DataError
from tatara.model.hf_spec import spec_from_hf
from tatara.model.spec import ModelSpec
from tatara.stage import SourceFile

if TYPE_CHECKING:
    from tatara.train.convert.import_config import ImportConfig

CONFIG = "config.json"
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja",
    "chat_template.json", "tokenizer.model", "vocab.json", "merges.txt",
)  # fmt: skip


def sources(config: "ImportConfig") -> list[SourceFile]:
    """What identifies the model, for the stage's fingerprint.

    Raises:
        DataError: There is no model.
    """
    files = model_files(config.path)
    hashes = storage.sha256_all([file.url for file in files])
    return [SourceFile(file.url, file.size, digest) for file, digest in zip(files, hashes, strict=True)]


def model_files(path: str) -> list[storage.FileInfo]:
    """Configuration, weights and tokenizer, and nothing else of a directory.

    Raises:
        DataError: One of the three is not there.
    """
    if not storage.exists(path):
        raise DataError(f"path: {path} does not exist")
    listed = {info.path: info for info in storage.list_files(path) if "/" not in info.path}
    wanted = [
        name
        for name in sorted(listed)
        if name == CONFIG or name in TOKENIZER_FILES or name.endswith((".safetensors", ".safetensors.index.json"))
        # The same weights once more, as Mistral gives them away.
        if not name.startswith("consolidated")
    ]
    for needed, what in ((CONFIG, "describes a model"), ("tokenizer.json", "holds a tokenizer")):
        if needed not in listed:
            raise DataError(f"{path} holds no {needed}, which {what}")
    if not any(name.endswith(".safetensors") for name in wanted):
        raise DataError(f"{path} holds no safetensors files: convert the weights with transformers' save_pretrained")
    return [listed[name] for name in wanted]


def read_config(path: str) -> dict[str, Any]:
    """The content of its ``config.json``.

    Raises:
        ConfigError: It is not JSON.
    """
    url = storage.join(path, CONFIG)
    try:
        config = json.loads(storage.read_bytes(url))
    except ValueError as error:
        raise ConfigError(f"{url} is not JSON: {error}") from None
    if not isinstance(config, dict):
        raise ConfigError(f"{url} is not a mapping")
    return config


def read_architecture(config: "ImportConfig") -> ModelSpec:
    """The architecture of the model to import.

    Raises:
        ConfigError: It is not one of ours; the message names the field.
    """
    try:
        return spec_from_hf(read_config(config.path), config.dtype)
    except ConfigError as error:
        raise ConfigError(f"{config.path}: {error}") from None
