import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tatara.data.decontaminate.tokens import (
    bitmap_of,
    coarse_bitmap_of,
    find_grams,
    folding_table,
    gram_hashes,
    is_unspaced,
    split_words,
)

TABLE = folding_table()
KANA = "ぁ", "ヿ"


def words_of(text: str) -> list[str]:
    """Words by another route: character by character, with unicodedata alone; no accents, no compatibility forms."""
    words, word = [], ""
    for character in text:
        if KANA[0] <= character <= KANA[1] or "一" <= character <= "鿿":
            words += [word, character] if character.isalnum() else [word]
            word = ""
        elif character.isalnum() or unicodedata.category(character)[0] == "M":
            word += character.casefold()
        else:
            words.append(word)
            word = ""
    return [word for word in [*words, word] if word]


alphabet = "abzABZ019 ,.\n\t_-äжШ한국日本語ひらカナ।क\x00\ud800😀"
texts = st.text(alphabet=st.sampled_from(alphabet), max_size=60)


@given(st.lists(texts, max_size=6))
def test_words_are_those_of_the_definition_with_their_places(batch: list[str]) -> None:
    plain = [text.replace("ä", "a") for text in batch]
    words = split_words(batch, TABLE)
    hashes: dict[str, int] = {}
    joined = b"".join(text.encode("utf-8", errors="surrogatepass") for text in batch)
    for number, text in enumerate(plain):
        expected = words_of(text)
        own = slice(words.bounds[number], words.bounds[number + 1])
        assert len(words.hashes[own]) == len(expected)
        for word, value, start, end in zip(
            expected, words.hashes[own], words.starts[own], words.ends[own], strict=True
        ):
            assert hashes.setdefault(word, int(value)) == int(value)
            found = joined[start:end].decode("utf-8", errors="surrogatepass")
            assert found.casefold().replace("ä", "a") == word
    assert len(set(hashes.values())) == len(hashes)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Wörld", "WO\u0308RLD"),
        ("ｈｅｌｌｏ　１２", "Hello 12"),
        ("ガギ", "ｶﾞｷﾞ"),
        ("don't stop", "don’t  –  STOP!"),
        ("co\u00adoperate\u200b", "cooperate"),
        ("日本 語。", "日、本語"),
        ("Straße", "STRAßE"),
        ("हिन्दी भाषा", "हिन्दी, भाषा"),
    ],
)
def test_what_a_reader_takes_for_the_same_is_the_same(one: str, other: str) -> None:
    words = split_words([one, other], TABLE)
    middle = words.bounds[1]
    assert middle
    assert words.hashes[:middle].tolist() == words.hashes[middle:].tolist()


def test_scripts_without_spaces_are_told_apart() -> None:
    for text, expected in (
        ("日本語の問題 GPT", True),
        ("한국어 문제", False),
        ("plain text 日", False),
        ("ﾊﾝｶｸ", True),
    ):
        assert is_unspaced(text, len(split_words([text], TABLE).hashes), TABLE) is expected, text


@given(st.lists(st.lists(st.sampled_from("abcd"), max_size=30).map(" ".join), max_size=5), st.integers(0, 2**32))
def test_ngrams_are_found_where_they_are(batch: list[str], seed: int) -> None:
    words = split_words(batch, TABLE)
    generator = np.random.default_rng(seed)
    lengths = (2, 3, 5)
    every = {
        (length, text, start): " ".join(split[start : start + length])
        for length in lengths
        for text, split in enumerate(line.split() for line in batch)
        for start in range(len(split) - length + 1)
    }
    wanted = {gram for gram in set(every.values()) if generator.random() < 0.4} | {"d c b a a"}
    hashes = {int(gram_hashes(split_words([gram], TABLE).hashes, len(gram.split()))[0]): gram for gram in wanted}
    grams = np.sort(np.asarray(list(hashes), np.uint64))
    places, found = find_grams(words, lengths, coarse_bitmap_of(grams), bitmap_of(grams), grams)
    expected = [(int(words.bounds[text]) + start, gram) for (_, text, start), gram in every.items() if gram in wanted]
    assert sorted(
        (int(place), hashes[int(grams[which])]) for place, which in zip(places, found, strict=True)
    ) == sorted(expected)
