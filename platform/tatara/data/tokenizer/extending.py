"""Adding to a tokenizer's vocabulary what another language needs.

New merges come after the old ones. As an old merge always goes first, and a new one only ever joins tokens that no old
one can, text becomes what the old tokenizer made of it with some neighbours joined: numbers of tokens stay, every old
sequence of tokens still decodes to its text, and old text changes only where it holds what was learnt.
"""

import itertools
import json
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from tatara.data.tokenizer.contents import content_code
from tatara.data.tokenizer.merges import learn
from tatara.data.tokenizer.pretokens import WordCounter, WordCounts
from tatara.data.tokenizer.splits import SPLITS, Split
from tatara.data.tokenizer.training import byte_characters
from tatara.errors import DataError

if TYPE_CHECKING:
    from tokenizers import Tokenizer


def known_split(tokenizer: "Tokenizer") -> Split | None:
    """The split that a tokenizer uses, if it is one that we can do without it."""
    described = json.loads(tokenizer.to_str())
    steps = (described.get("pre_tokenizer") or {}).get("pretokenizers") or []
    if described.get("normalizer") is None and len(steps) == 2 and steps[1].get("type") == "ByteLevel":
        pattern = (steps[0].get("pattern") or {}).get("Regex")
        found = [split for split in SPLITS.values() if split.pattern == pattern]
        if found and not steps[1].get("use_regex") and not steps[1].get("add_prefix_space"):
            return found[0]
    return None


def words_of(tokenizer: "Tokenizer", texts: Iterable[str]) -> WordCounts:
    """Count the words of texts as a tokenizer cuts them, whatever its rules."""
    byte_of = {character: byte for byte, character in enumerate(byte_characters())}
    found: Counter[str] = Counter()
    for text in texts:
        normal = tokenizer.normalizer.normalize_str(text) if tokenizer.normalizer is not None else text
        found.update(word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(normal))
    encoded = [bytes(byte_of[character] for character in word) for word in found]
    ends = np.cumsum([len(word) for word in encoded], dtype=np.int64)
    text_bytes = np.frombuffer(b"".join(encoded), np.uint8)
    return WordCounts(text_bytes, ends, np.array(list(found.values()), np.int64))


def check_extensible(tokenizer: "Tokenizer") -> None:
    """Raise if a tokenizer is not byte-level BPE.

    Raises:
        DataError: It is not.
    """
    described = json.loads(tokenizer.to_str())
    vocabulary = tokenizer.get_vocab(with_added_tokens=False)
    if described["model"]["type"] != "BPE" or not all(character in vocabulary for character in byte_characters()):
        raise DataError("extend_to needs a byte-level BPE tokenizer, whose vocabulary has all 256 bytes")


def extend(tokenizer: "Tokenizer", words: WordCounts, vocab_size: int) -> "Tokenizer":
    """Learn merges of words on top of a tokenizer's own, until the vocabulary has ``vocab_size`` tokens.

    Raises:
        DataError: The tokenizer is not byte-level BPE, or has as many tokens already.
    """
    from tokenizers import Tokenizer

    check_extensible(tokenizer)
    described: dict[str, Any] = json.loads(tokenizer.to_str())
    vocabulary: dict[str, int] = described["model"]["vocab"]
    names = {number: token for token, number in tokenizer.get_vocab(with_added_tokens=True).items()}
    size = max(names) + 1
    if size >= vocab_size:
        raise DataError(f"extend_to {vocab_size:,} is not more than the {size:,} tokens that the tokenizer has already")
    symbols, starts = _symbols(tokenizer, words)
    learnt = learn(symbols, starts, words.counts, _codes(vocabulary, size), vocab_size)
    for left, right, merged in learnt.tolist():
        described["model"]["merges"].append([names[left], names[right]])
        if merged not in names:
            names[merged] = names[left] + names[right]
            vocabulary[names[merged]] = merged
    return Tokenizer.from_str(json.dumps(described, ensure_ascii=False))


def _symbols(tokenizer: "Tokenizer", words: WordCounts) -> tuple[np.ndarray, np.ndarray]:
    """What the tokenizer makes of each word: numbers one after the other, and where each word begins."""
    letters = byte_characters()
    starts = np.concatenate(([0], words.ends)).tolist()
    content = words.text.tobytes()
    found: list[int] = []
    places = [0]
    for first, end in itertools.pairwise(starts):
        found += [token.id for token in tokenizer.model.tokenize("".join(letters[byte] for byte in content[first:end]))]
        places.append(len(found))
    return np.array(found, np.int32), np.array(places, np.int64)


def _codes(vocabulary: dict[str, int], size: int) -> np.ndarray:
    """`content_code` of each token; of those that stand for no bytes, one that no bytes have."""
    byte_of = {character: byte for byte, character in enumerate(byte_characters())}
    codes = np.array([(2**64 - 1 - 2 * i, 1) for i in range(size)], np.uint64)
    for token, number in vocabulary.items():
        if all(character in byte_of for character in token):
            codes[number] = content_code(bytes(byte_of[character] for character in token))
    return codes


def count_parts(split: Split, parts: Iterable[WordCounts]) -> WordCounts:
    """Add up words that were counted in parts."""
    counter = WordCounter(split)
    for part in parts:
        counter.merge(part)
    return counter.result()
