import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from corpus import topics
from tatara.data.shingles import normalise, shingle_hashes


def reference(text: str, ngram: int) -> list[tuple[str, ...]]:
    words = "".join(character if character.isalnum() else " " for character in text).split()
    if not words:
        return []
    return [tuple(words[i : i + ngram]) for i in range(max(1, len(words) - ngram + 1))]


def check(texts: list[str], ngram: int) -> None:
    normal = [normalise(text) for text in texts]
    hashes, bounds = shingle_hashes(normal, ngram)
    assert bounds[0] == 0
    assert bounds[-1] == len(hashes)
    meaning: dict[tuple[str, ...], int] = {}
    for i, text in enumerate(normal):
        grams = reference(text, ngram)
        own = hashes[bounds[i] : bounds[i + 1]].tolist()
        assert len(own) == len(grams)
        for gram, value in zip(grams, own, strict=True):
            assert meaning.setdefault(gram, value) == value
    # As many hashes as shingles: no two collide.
    assert len(set(meaning.values())) == len(meaning)


@settings(deadline=None)
@given(st.lists(st.text(alphabet="ab1 .\n-", max_size=40), max_size=8), st.integers(1, 5))
def test_same_shingles_same_hashes_and_no_collisions(texts: list[str], ngram: int) -> None:
    check(texts, ngram)


def test_real_text() -> None:
    check(list(topics().values()), 5)


def test_a_text_hashes_alike_wherever_it_stands() -> None:
    alone, _ = shingle_hashes(["some words of a text that is hashed"], 5)
    together, bounds = shingle_hashes(
        ["other words before it come first", "some words of a text that is hashed", ""], 5
    )
    assert np.array_equal(together[bounds[1] : bounds[2]], alone)
    assert bounds[3] == bounds[2]


def test_characters_are_words_where_there_are_no_spaces() -> None:
    _, bounds = shingle_hashes(["吾輩は猫である。", "naïve café"], 5)
    assert np.diff(bounds).tolist() == [3, 1]


def test_no_texts() -> None:
    hashes, bounds = shingle_hashes([], 5)
    assert len(hashes) == 0
    assert bounds.tolist() == [0]
