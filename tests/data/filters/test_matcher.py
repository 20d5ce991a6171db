import pytest
from hypothesis import given
from hypothesis import strategies as st

from tatara.data.filters import matcher as matcher_module
from tatara.data.filters.matcher import Matcher
from tatara.errors import DataError


def plain_find(text: str, words: list[str]) -> list[tuple[int, str]]:
    """What ends first, of those the longest, without overlap."""
    found, free = [], 0
    for end in range(1, len(text) + 1):
        ending = [word for word in words if text.endswith(word, free, end) and end - len(word) >= free]
        if ending:
            word = max(ending, key=len)
            found.append((end - len(word), word))
            free = end
    return found


@given(st.text("abcあ ", max_size=60), st.lists(st.text("abcあ", min_size=1, max_size=5), max_size=8))
def test_matches_are_those_of_plain_python(text: str, words: list[str]) -> None:
    matcher = Matcher(words, whole=False)
    places, numbers = matcher.find(text)
    found = [(place, matcher.words[number]) for place, number in zip(places.tolist(), numbers.tolist(), strict=True)]
    assert found == plain_find(text, matcher.words)


@pytest.mark.parametrize(
    ("word", "text", "count"),
    [
        ("ass", "Class assembles a mass; an ASS, ass.", 2),
        ("ass hole", "class hole. ass\nhole", 1),
        ("été", "les étés, l'été", 1),
        ("bad", "bad1 1bad _bad_ (bad)", 2),
        # Katakana inside a longer word of katakana, and next to something else.
        ("サック", "リュックサックとサックの話、ザ・サック", 2),
        ("アス", "アスファルトとアス", 1),
        # A kanji is a word only by itself; two are found in compounds.
        ("性", "女性の性を性別", 1),
        ("変態", "大変態度がよい。変態だ", 2),
        ("sm", "smクラブ", 1),
        ("sm", "smart prism", 0),
    ],
)
def test_words_inside_others_do_not_count(word: str, text: str, count: int) -> None:
    assert Matcher([word]).count(text) == count


def test_a_match_that_is_none_hides_nothing() -> None:
    # "ass hole" begins inside "class", "hole" is a word of its own.
    assert Matcher(["ass hole", "hole"]).count("class hole") == 1


def test_many_words() -> None:
    words = [f"word{number:05d}" for number in range(20_000)]
    matcher = Matcher(words)
    assert matcher.count(" ".join(words[::100]) + " word99999 sword00001") == 200
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(matcher_module, "_MOST_CELLS", 1_000)
        with pytest.raises(DataError, match="a list of 20000 words with 15 different characters is too long"):
            Matcher(words)
    assert Matcher([]).count("anything") == 0
    assert Matcher(["", " "]).count(" ") == 0
