"""Directories that ``AutoTokenizer.from_pretrained`` and vLLM load."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tatara import storage
from tatara.data.tokenizer.splits import END_OF_TEXT
from tatara.errors import DataError, StorageError
from tatara.stage import SourceFile

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from tatara.data.tokenize import TokenizeConfig

MODEL = "tokenizer.json"
SETTINGS = "tokenizer_config.json"
_FILES = (
    MODEL, SETTINGS, "special_tokens_map.json", "added_tokens.json", "chat_template.jinja", "chat_template.json",
)  # fmt: skip


@dataclass(frozen=True)
class GivenTokenizer:
    """A tokenizer that somebody else has made.

    Attributes:
        tokenizer: What its ``tokenizer.json`` says.
        end_of_text: The token that ends a document.
        files: Name to content of its files.
    """

    tokenizer: "Tokenizer"
    end_of_text: str
    files: dict[str, bytes]


def sources(config: "TokenizeConfig") -> list[SourceFile]:
    """What identifies a given tokenizer, for the stage's fingerprint."""
    if config.tokenizer is None:
        return []
    files = _read(config.tokenizer)
    return [SourceFile(name, len(data), hashlib.sha256(data).hexdigest()) for name, data in files.items()]


def _read(directory: str) -> dict[str, bytes]:
    found = {}
    for name in _FILES:
        url = storage.join(directory, name)
        if storage.exists(url):
            found[name] = storage.read_bytes(url)
    if MODEL not in found:
        raise DataError(f"{directory} holds no {MODEL}: a directory that Hugging Face's fast tokenizers load is needed")
    return found


def load(directory: str) -> GivenTokenizer:
    """Read a tokenizer.

    Raises:
        DataError: There is none, it cannot be read, or it does not say which token ends a document.
    """
    from tokenizers import Tokenizer

    try:
        files = _read(directory)
        tokenizer = Tokenizer.from_str(files[MODEL].decode("utf-8"))
        settings = json.loads(files.get(SETTINGS, b"{}"))
    except StorageError as error:
        raise DataError(str(error)) from None
    except Exception as error:
        # The tokenizers package raises bare exceptions.
        if isinstance(error, DataError):
            raise
        raise DataError(f"cannot read the tokenizer in {directory}: {' '.join(str(error).split())[:200]}") from None
    end = settings.get("eos_token") or END_OF_TEXT
    end = end["content"] if isinstance(end, dict) else str(end)
    if tokenizer.token_to_id(end) is None:
        raise DataError(
            f"the tokenizer in {directory} has no token {end!r} to end documents: set eos_token in {SETTINGS}"
        )
    return GivenTokenizer(tokenizer, end, files)


def vocabulary_size(tokenizer: "Tokenizer") -> int:
    """One more than the largest token."""
    return max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1


def save(tokenizer: "Tokenizer", directory: Path, model_max_length: int) -> str:
    """Write a tokenizer of ours.

    Args:
        tokenizer: The tokenizer.
        directory: Where to; made if it is not there.
        model_max_length: Longest input of the model it is for, tokens.

    Returns:
        SHA-256 of ``tokenizer.json``, hexadecimal.
    """
    named = {"bos_token": END_OF_TEXT, "eos_token": END_OF_TEXT, "pad_token": END_OF_TEXT}
    special: dict[str, Any] = dict(named)
    more = [token.content for token in tokenizer.get_added_tokens_decoder().values() if token.content != END_OF_TEXT]
    if more:
        special["additional_special_tokens"] = more
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": model_max_length,
        "clean_up_tokenization_spaces": False,
        "add_prefix_space": False,
        **special,
    }
    files = {
        name: (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()
        for name, value in ((SETTINGS, settings), ("special_tokens_map.json", special))
    }
    return save_as(tokenizer, files, directory)


def save_as(tokenizer: "Tokenizer", files: dict[str, bytes], directory: Path) -> str:
    """Write a tokenizer with given settings; returns the SHA-256 of ``tokenizer.json``, hexadecimal."""
    directory.mkdir(parents=True, exist_ok=True)
    content = tokenizer.to_str(pretty=True).encode()
    for name, data in {**files, MODEL: content}.items():
        (directory / name).write_bytes(data)
    return hashlib.sha256(content).hexdigest()
