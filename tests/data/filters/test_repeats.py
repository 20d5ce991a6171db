from collections import Counter

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tatara.data.filters.characters import classes, points
from tatara.data.filters.repeats import intern_words, repeated_ngrams
from tatara.data.filters.words import split_words, word_spans

Measures = list[tuple[int, int, int]]


def top(words: list[str], n: int) -> int:
    """Characters of the most frequent n-gram, all occurrences, as datatrove's find_top_duplicate; if it is repeated."""
    grams = Counter(" ".join(words[i : i + n]) for i in range(len(words) - n + 1)).most_common(1)
    return len(grams[0][0]) * grams[0][1] if grams and grams[0][1] > 1 else 0


def duplicate(words: list[str], n: int) -> int:
    """Characters in n-grams that occurred before, as datatrove's find_all_duplicate."""
    seen: set[tuple[str, ...]] = set()
    characters = place = 0
    while place + n <= len(words):
        gram = tuple(words[place : place + n])
        if gram in seen:
            characters += len("".join(gram))
            place += n
        else:
            seen.add(gram)
            place += 1
    return characters


def covered(words: list[str], n: int) -> int:
    grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    counts = Counter(grams)
    inside = {i + k for i, gram in enumerate(grams) if counts[gram] > 1 for k in range(n)}
    return sum(len(words[i]) for i in inside)


def measured(text: str, sizes: list[int]) -> Measures:
    codes = points(text)
    starts, lengths = word_spans(codes, classes())
    ids = intern_words(codes, starts, lengths)
    wanted = np.full(len(sizes), 7, np.int32)
    found = repeated_ngrams(ids, lengths, np.array(sizes, np.int32), wanted)
    return list(zip(*(column.tolist() for column in found), strict=True))


def expected(text: str, sizes: list[int]) -> Measures:
    words = split_words(text)
    return [(top(words, n), duplicate(words, n), covered(words, n)) for n in sizes]


SIZES = st.sets(st.integers(1, 12), min_size=1).map(sorted)


@given(st.lists(st.sampled_from(["a", "b", "ab", "ccc", "é"]), max_size=60).map(" ".join), SIZES)
@example("a a a a a a a", [1, 2, 3])
@example("", [1, 2])
@example("one", [1, 2])
def test_ngrams_of_words_are_those_of_plain_python(text: str, sizes: list[int]) -> None:
    assert measured(text, sizes) == expected(text, sizes)


@given(st.text("日本語の。a ", max_size=80), SIZES)
def test_ngrams_of_characters_are_those_of_plain_python(text: str, sizes: list[int]) -> None:
    assert measured(text, sizes) == expected(text, sizes)


@given(st.lists(st.lists(st.integers(0, 30), min_size=4, max_size=12), max_size=4), st.randoms(use_true_random=False))
def test_long_repeats_in_varied_text(phrases: list[list[int]], draw: object) -> None:
    import random

    assert isinstance(draw, random.Random)
    words: list[str] = []
    for _ in range(12):
        words += [f"w{draw.randrange(200)}" for _ in range(draw.randrange(6))]
        if phrases:
            words += [f"p{number}" for number in draw.choice(phrases)]
    text = " ".join(words)
    assert measured(text, [2, 3, 4, 5, 7, 10]) == expected(text, [2, 3, 4, 5, 7, 10])


def test_words_get_the_place_of_their_first_occurrence() -> None:
    codes = points("to be or not to be")
    assert intern_words(codes, *word_spans(codes, classes())).tolist() == [0, 1, 2, 3, 0, 1]


@pytest.mark.data
def test_ngrams_of_real_texts(sample_data: object) -> None:
    import gzip
    import json
    from pathlib import Path

    with gzip.open(Path(str(sample_data)) / "c4-sample/c4_demo.jsonl.gz", "rt", encoding="utf-8") as file:
        texts = [json.loads(line)["text"] for _, line in zip(range(60), file, strict=False)]
    for text in texts:
        assert measured(text, [*range(2, 11)]) == expected(text, [*range(2, 11)])
