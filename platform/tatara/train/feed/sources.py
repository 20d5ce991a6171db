"""The tokens artifacts that a run reads, by the names that its mix uses."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from tatara.chat import ChatTemplate, check_same, find_template
from tatara.errors import DataError
from tatara.train.feed.batches import PackedTokens, read_tokens_json
from tatara.train.feed.plan import SourceSize

_TOKENIZER = Path("tokenizer", "tokenizer.json")


def open_sources(
    directories: Mapping[str, Path], split: str = "train", vocab_size: int | None = None
) -> dict[str, PackedTokens]:
    """Open one split of each source.

    Args:
        directories: Local payload of each tokens artifact by the source's name.
        split: ``train`` or ``validation``.
        vocab_size: Tokens that the model knows; a batch with any other is refused. None checks nothing.

    Raises:
        DataError: A file is missing or damaged.
    """
    return {
        name: PackedTokens(directory, split, int(read_tokens_json(directory)["sequence_length"]), vocab_size)
        for name, directory in directories.items()
    }


def source_sizes(sources: Mapping[str, PackedTokens]) -> dict[str, SourceSize]:
    """What `tatara.train.feed.planning.training_plan` has to know of sources."""
    return {name: SourceSize(packed.num_bins, packed.sequence_length) for name, packed in sources.items()}


def same_tokenizer(directories: Mapping[str, Path]) -> str:
    """The SHA-256, hexadecimal, of the ``tokenizer.json`` that all sources were made with.

    Raises:
        DataError: Two differ, a tokenizer is not the one that its tokens were made with, or one is missing.
    """
    if not directories:
        raise DataError("there is no source of tokens to train on: name at least one")
    found = {name: _tokenizer(name, directory) for name, directory in directories.items()}
    first, digest = next(iter(found.items()))
    for name, other in found.items():
        if other != digest:
            raise DataError(
                f"sources {first} and {name} have different tokenizers ({digest[:12]} in {directories[first]}, "
                f"{other[:12]} in {directories[name]}): tokenize both with the same one"
            )
    return digest


def tokenizer_directory(directories: Mapping[str, Path], initial: Path | None = None) -> Path:
    """The tokenizer that goes with what is trained: one that has the chat template, where there is one.

    Args:
        directories: Local payload of each tokens artifact by the source's name.
        initial: Local payload of the checkpoint to start from.

    Raises:
        ArtifactError: Two chat templates differ; one line with both hashes.
    """
    places = {name: directory / "tokenizer" for name, directory in directories.items()}
    if initial is not None:
        places["the checkpoint to start from"] = initial / "tokenizer"
    found: tuple[str, ChatTemplate] | None = None
    for name, place in places.items():
        template = find_template(place)
        if template is not None and found is not None:
            check_same(found[1], template, f"{found[0]} and {name} have different chat templates")
        elif template is not None:
            found = name, template
    return places[found[0] if found else next(iter(places))]


def _tokenizer(name: str, directory: Path) -> str:
    path = directory / _TOKENIZER
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise DataError(f"source {name}: cannot read its tokenizer {path}: {error.strerror}") from None
    recorded = read_tokens_json(directory).get("tokenizer_sha256", digest)
    if recorded != digest:
        raise DataError(
            f"source {name}: {path} ({digest[:12]}) is not the tokenizer that its tokens were made with "
            f"({str(recorded)[:12]}, in tokens.json): put the right one back or tokenize again"
        )
    return digest
