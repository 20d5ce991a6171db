"""Training byte-level BPE."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from tatara.data.tokenizer.contents import content_code
from tatara.data.tokenizer.merges import learn
from tatara.data.tokenizer.pretokens import WordCounter, WordCounts
from tatara.data.tokenizer.splits import END_OF_TEXT, SPLITS, Split

if TYPE_CHECKING:
    from tokenizers import Tokenizer


_BATCH_BYTES = 4_000_000


def byte_characters() -> list[str]:
    """The character that stands for each byte in a byte-level vocabulary.

    Itself where it can be seen, else one from U+0100 on (GPT-2; openai/gpt-2, src/encoder.py).
    """
    seen = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = iter(range(0x100, 0x200))
    return [chr(byte) if byte in seen else chr(next(others)) for byte in range(256)]


def count_words(texts: Iterable[str], split: Split) -> WordCounts:
    """Count the words of texts."""
    counter = WordCounter(split)
    waiting: list[bytes] = []
    size = 0
    for text in texts:
        waiting.append(text.encode("utf-8", "replace"))
        size += len(waiting[-1])
        if size >= _BATCH_BYTES:
            _count_batch(counter, waiting)
            waiting, size = [], 0
    _count_batch(counter, waiting)
    return counter.result()


def _count_batch(counter: WordCounter, texts: Sequence[bytes]) -> None:
    offsets = np.cumsum([0, *map(len, texts)], dtype=np.int64)
    counter.add(np.frombuffer(b"".join(texts), np.uint8), offsets)


def train(
    words: WordCounts, vocab_size: int, split: str, special_tokens: Sequence[str] = (END_OF_TEXT,)
) -> "Tokenizer":
    """Train byte-level BPE; every byte is in the vocabulary, so that any text survives the round trip.

    Numbers are given to special tokens, then to the bytes, then to merges in the order in which they are learnt. The
    vocabulary comes out smaller than ``vocab_size`` when the text has fewer pairs to merge.
    """
    from tokenizers import Tokenizer, models

    letters = byte_characters()
    alphabet = sorted(range(256), key=lambda byte: letters[byte])
    vocabulary = {token: number for number, token in enumerate(special_tokens)}
    number_of = np.zeros(256, np.int32)
    for number, byte in enumerate(alphabet, start=len(vocabulary)):
        number_of[byte] = number
    vocabulary |= {letters[byte]: number for number, byte in enumerate(alphabet, start=len(vocabulary))}
    # What no text can spell: the code of bytes that do not exist.
    codes = [(2**64 - 1 - 2 * i, 1) for i in range(len(special_tokens))] + [content_code(bytes([b])) for b in alphabet]
    starts = np.concatenate(([0], words.ends)).astype(np.int64)
    learnt = learn(number_of[words.text], starts, words.counts, np.array(codes, np.uint64), vocab_size)
    tokens, merges = list(vocabulary), []
    for left, right, merged in learnt.tolist():
        merges.append((tokens[left], tokens[right]))
        if merged == len(tokens):
            tokens.append(tokens[left] + tokens[right])
            vocabulary[tokens[-1]] = merged
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    _byte_level(tokenizer, SPLITS[split])
    tokenizer.add_special_tokens(list(special_tokens))
    return tokenizer


def _byte_level(tokenizer: "Tokenizer", split: Split) -> None:
    from tokenizers import Regex, decoders, pre_tokenizers

    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(split.pattern), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
