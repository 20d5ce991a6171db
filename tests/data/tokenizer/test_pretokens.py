import gzip
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, pre_tokenizers

from corpus import topics
from tatara.data.tokenizer.engine import HARD_CASES
from tatara.data.tokenizer.extending import count_parts
from tatara.data.tokenizer.pretokens import MAX_WORD, WordCounts
from tatara.data.tokenizer.splits import SPLITS
from tatara.data.tokenizer.training import count_words

PIECES = st.sampled_from(
    [
        " ", "  ", "\n", "\r\n", "\t", "\u3000", "\xa0", "'s", "'LL", "'", "7", "१", "a", "É", "日", "か", "e\u0301",
        "ก็", "!", "。", "👍🏽", "_", "-", "\u200d", "ſ",
    ]
)  # fmt: skip


def as_counter(words: WordCounts) -> Counter[str]:
    ends = words.ends.tolist()
    text = words.text.tobytes()
    starts = [0, *ends][: len(ends)]
    return Counter(
        {text[a:b].decode("utf-8", "replace"): n for a, b, n in zip(starts, ends, words.counts.tolist(), strict=True)}
    )


def by_regex(texts: Iterable[str], name: str) -> Counter[str]:
    """Words as Hugging Face's regular expression finds them, those that are not cut."""
    splitter = pre_tokenizers.Split(Regex(SPLITS[name].pattern), behavior="isolated")
    words = Counter(word for text in texts for word, _ in splitter.pre_tokenize_str(text))
    return Counter({word: count for word, count in words.items() if len(word.encode()) <= MAX_WORD})


@pytest.mark.parametrize("name", SPLITS)
def test_the_words_are_those_of_the_regular_expression(name: str) -> None:
    texts = [*list(topics().values())[:30], *(text for text in HARD_CASES if len(text) < 100)]
    # Turkish dotted capitals and the long s fold to ASCII letters in Unicode, which only contractions ask for.
    assert as_counter(count_words(texts, SPLITS[name])) == by_regex(texts, name)


@settings(max_examples=150)
@given(pieces=st.lists(PIECES, max_size=30), name=st.sampled_from(list(SPLITS)))
def test_any_mixture_of_classes(pieces: list[str], name: str) -> None:
    text = "".join(pieces).replace("'ſ", "ſ")
    assert as_counter(count_words([text], SPLITS[name])) == by_regex([text], name)


@pytest.mark.data
def test_every_language(sample_data: Path) -> None:
    for path in sorted((sample_data / "langid-lingua").glob("*.txt*")):
        raw = path.read_bytes()
        text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode()[:30_000]
        found, expected = as_counter(count_words([text], SPLITS["qwen3.5"])), by_regex([text], "qwen3.5")
        pieces = +(found - expected)
        assert not expected - found, path.name
        assert all(len(piece.encode()) <= MAX_WORD for piece in pieces)


def test_parts_add_up_and_the_table_grows() -> None:
    rng = np.random.default_rng(0)
    texts = [" ".join(map(chr, rng.integers(0x4E00, 0x9000, 4000))) for _ in range(10)]
    texts = [text.replace(" ", " x") for text in texts] + [f"{number:x} zq{number}" for number in range(30_000)]
    split = SPLITS["llama3"]
    whole = count_words(texts, split)
    parts = count_parts(split, [count_words(texts[::2], split), count_words(texts[1::2], split)])
    assert as_counter(parts) == as_counter(whole)
    assert as_counter(whole) == by_regex(texts, "llama3")
    assert len(whole.ends) > 1 << 14


def test_nothing_and_very_long_words() -> None:
    split = SPLITS["qwen3.5"]
    assert len(count_words([], split).ends) == len(count_words(["", ""], split).ends) == 0
    words = as_counter(count_words(["あ" * 1000, "x" * 1000], split))
    assert sum(len(word) * count for word, count in words.items()) == 2000
    assert max(len(word.encode()) for word in words) <= MAX_WORD
    assert "\ufffd" not in "".join(words)


@pytest.mark.parametrize("unit", ["a", " ", "\n ", "'", "日", "1", "a'", "!\n", "\u0301"])
def test_time_grows_with_the_length(unit: str) -> None:
    def best(length: int) -> float:
        text = [(unit * length)[:length]]
        times = []
        for _ in range(3):
            started = time.process_time()
            count_words(text, SPLITS["qwen3.5"])
            times.append(time.process_time() - started)
        return min(times)

    best(1000)
    assert best(1_600_000) < 8 * max(best(400_000), 0.002)
