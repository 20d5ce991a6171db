import random
import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from tatara.data.filters import characters
from tatara.data.filters.words import count_words, split_words, word_shapes

# Letters, digits, marks and symbols of several scripts, white space of all kinds, and a lone surrogate.
TEXTS = st.text(st.sampled_from("ab1é-#.…\n\r\t \u00a0\u3000\u2028日本語のア。、กข한글😀\u0301\x00\ud800"), max_size=60)


def is_unspaced(character: str) -> bool:
    names = ("CJK UNIFIED", "CJK COMPATIBILITY IDEOGRAPH", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR")
    return unicodedata.name(character, "").startswith(names)


def plain_split(text: str) -> list[str]:
    spaced = "".join(f" {character} " if is_unspaced(character) else character for character in text)
    return spaced.split()


@given(TEXTS)
def test_words_are_runs_between_spaces_and_single_characters_of_unspaced_scripts(text: str) -> None:
    assert split_words(text) == plain_split(text)
    assert count_words(text) == len(plain_split(text))


@given(st.text(st.characters(codec="utf-32", max_codepoint=0x0DFF)))
def test_words_of_spaced_scripts_are_those_of_split(text: str) -> None:
    if not any(is_unspaced(character) for character in text):
        assert split_words(text) == text.split()


@given(TEXTS)
def test_shapes_are_what_counting_one_by_one_gives(text: str) -> None:
    words = plain_split(text)
    symbols = [all(unicodedata.category(c)[0] in "PSCZ" for c in word) for word in words]
    shapes = word_shapes(text)
    assert shapes.words == len(words)
    assert shapes.plain == symbols.count(False)
    assert shapes.plain_characters == sum(len(w) for w, symbol in zip(words, symbols, strict=True) if not symbol)
    assert shapes.lettered == sum(any(c.isalpha() for c in word) for word in words)
    assert shapes.hashes == text.count("#")
    assert shapes.ellipses == text.count("...") + text.count("…")
    assert shapes.newlines == text.count("\n")


def test_classes_are_those_of_unicode() -> None:
    table = characters.classes()
    draw = random.Random(0)
    for point in [*range(0x3000), *(draw.randrange(0x110000) for _ in range(5000))]:
        character = chr(point)
        assert bool(table[point] & characters.SPACE) == character.isspace(), hex(point)
        assert bool(table[point] & characters.LETTER) == character.isalpha(), hex(point)
    for character, bit in (("の", "HIRAGANA"), ("ー", "KATAKANA"), ("々", "KANJI"), ("𠮷", "KANJI"), ("ไ", "UNSPACED")):
        assert table[ord(character)] & getattr(characters, bit)
    assert not table[ord("・")] & characters.KATAKANA
    assert not table[ord("한")] & characters.UNSPACED
