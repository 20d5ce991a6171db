"""Which tokenizer a stage uses: one that it trains, one that is given, or a given one with more tokens."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tatara.data.shard_map import map_shards
from tatara.data.tokenize import TokenizeConfig
from tatara.data.tokenizer import directory, engine, extending, parts
from tatara.data.tokenizer.parts import Encoding
from tatara.data.tokenizer.pretokens import WordCounts
from tatara.data.tokenizer.splits import END_OF_TEXT, SPLITS, Split
from tatara.data.tokenizer.training import train
from tatara.stage import StageRun

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_SAMPLES = 64
_SAMPLE_CHARACTERS = 20_000
Chosen = Sequence[tuple[str, NDArray[np.bool_]]]
"""Files of documents, and which of each the tokenizer is trained on."""


@dataclass(frozen=True)
class Made:
    """A tokenizer that is ready for work, and its file's SHA-256, hexadecimal."""

    encoding: Encoding
    digest: str


def make(config: TokenizeConfig, chosen: Chosen, target: Path, stage_run: StageRun) -> Made:
    """Train, take or extend a tokenizer, write it, and decide what tokenises.

    Raises:
        DataError: A given tokenizer cannot be used.
        ConfigError: The engine that is asked for cannot be used.
    """
    before = None
    if config.tokenizer is None:
        stage_run.log(f"training a byte-level BPE of {config.vocab_size:,} tokens")
        split = SPLITS[config.split]
        words = _count(chosen, split)
        tokenizer = train(words, config.vocab_size, config.split, (END_OF_TEXT, *config.reserve))
        end, digest = END_OF_TEXT, directory.save(tokenizer, target, config.sequence_length)
        size = directory.vocabulary_size(tokenizer)
        if size < config.vocab_size:
            stage_run.log(f"the text has pairs for no more than {size:,} tokens; that is the vocabulary")
    else:
        given = directory.load(config.tokenizer)
        tokenizer, end = given.tokenizer, given.end_of_text
        if config.extend_to is not None:
            size = directory.vocabulary_size(tokenizer)
            stage_run.log(f"extending a vocabulary of {size:,} tokens to {config.extend_to:,}")
            extending.check_extensible(tokenizer)
            old = tokenizer.to_str()
            tokenizer = extending.extend(tokenizer, _words(tokenizer, chosen), config.extend_to)
            before = (old, _choose(old, config, chosen, stage_run))
        digest = directory.save_as(tokenizer, given.files, target)
    serialised = tokenizer.to_str()
    name = _choose(serialised, config, chosen, stage_run)
    number = tokenizer.token_to_id(end)
    assert number is not None, end
    return Made(Encoding(serialised, name, number, directory.vocabulary_size(tokenizer), before), digest)


def _choose(serialised: str, config: TokenizeConfig, chosen: Chosen, stage_run: StageRun) -> str:
    name, reason = engine.choose(serialised, config.engine, _samples(chosen))
    if reason:
        stage_run.log(f"tokenising with Hugging Face tokenizers, which is slower: {reason}")
    return name


def _samples(chosen: Chosen) -> list[str]:
    """The beginnings of some documents, spread over files."""
    step = max(1, len(chosen) // _SAMPLES)
    files = chosen[::step][:_SAMPLES]
    found = []
    for url, mask in files:
        some = np.flatnonzero(mask)[: -(-_SAMPLES // len(files))]
        few = np.zeros(len(mask), bool)
        few[some] = True
        for array in parts.texts(url, few):
            found += [text[:_SAMPLE_CHARACTERS] for text in array.to_pylist()]
    return found


def _count(chosen: Chosen, split: Split) -> WordCounts:
    """Count the words of the documents that a tokenizer is trained on, a task per file."""
    urls = [url for url, _ in chosen]
    masks = [mask for _, mask in chosen]

    def task(item: dict[str, Any]) -> WordCounts:
        return parts.count_words(urls[item["index"]], masks[item["index"]], split)

    items = [{"index": index} for index, mask in enumerate(masks) if mask.any()]
    return extending.count_parts(split, map_shards(task, items))


def _words(tokenizer: "Tokenizer", chosen: Chosen) -> WordCounts:
    split = extending.known_split(tokenizer)
    if split is not None:
        return _count(chosen, split)

    def texts() -> Iterator[str]:
        for url, mask in chosen:
            for array in parts.texts(url, mask):
                yield from array.to_pylist()

    return extending.words_of(tokenizer, texts())
