import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tatara.data.document import Document, Verdict
from tatara.data.filters.config import GopherQualityConfig, GopherRepetitionConfig
from tatara.data.filters.gopher_quality import GopherQuality
from tatara.data.filters.gopher_repetition import GopherRepetition, duplicates, split_paragraphs

PROSE = (
    "The furnace turned iron sand into steel, and the smiths who tended it for three days and nights knew its moods. "
    "They fed charcoal and sand by the hour, watched the colour of the flames, and listened to the bellows. "
    "When the work was done they broke the clay walls to take the bloom out. "
    "Most of that bloom was of middling quality, but a part of it was good enough to be forged into blades."
)
PROSE_JA = (
    "砂鉄から鋼をつくる炉は三日三晩燃えつづけ、職人たちはその機嫌をよく知っていた。一時間ごとに木炭と砂鉄を入れ、"
    "炎の色を見て、ふいごの音に耳をすませた。仕事が終わると粘土の壁を壊し、塊を取り出した。その大半は並の品質であったが、"
    "一部は刀に鍛えられるほどよいものだった。村の人々は、いまでもその話を子どもたちに語りつづけている。"
)


def quality(text: str, language: str | None = "en", **values: Any) -> Verdict | None:
    return GopherQuality(GopherQualityConfig(**values), Path()).judge(Document("x", text, "s", language=language))


def repetition(text: str, language: str | None = "en", **values: Any) -> Verdict | None:
    return GopherRepetition(GopherRepetitionConfig(**values), Path()).judge(Document("x", text, "s", language=language))


@pytest.mark.parametrize(("text", "language"), [(PROSE, "en"), (PROSE, None), (PROSE_JA, "ja")])
def test_prose_passes(text: str, language: str | None) -> None:
    assert quality(text, language) is None
    assert repetition(text, language) is None


@pytest.mark.parametrize(
    ("text", "key", "value", "relaxed"),
    [
        ("the cat and " * 10, "min_words", 30, 0),
        ("the -- and ?! " * 20, "min_words", 40, 0),
        ("a b of the " * 20, "min_mean_word_length", 1.75, 0),
        ("the incomprehensibilities and incomprehensibilities " * 20, "max_mean_word_length", 12, 99),
        ("the # which that dogs chase " * 20, "max_symbol_ratio", 1 / 6, 1),
        ("the ...which that… dogs chase " * 20, "max_symbol_ratio", 2 / 5, 1),
        ("- the kitten and that\n" * 20, "max_bullet_lines", 1.0, 1),
        ("the story of that cat...\n" * 6 + "the end and with that the dog\n" * 12, "max_ellipsis_lines", 1 / 3, 1),
        ("the 1234 and 5678 that " * 20, "min_alphabetic_words", 0.6, 0),
        ("cats chase mice through gardens nightly " * 20, "min_stop_words", 0, 0),
    ],
)
def test_quality(text: str, key: str, value: float, relaxed: float) -> None:
    verdict = quality(text)
    assert verdict is not None
    assert verdict.reason == f"gopher_quality.{key}"
    assert verdict.value == pytest.approx(value)
    again = quality(text, **{key: relaxed})
    assert again is None or again.reason != verdict.reason


def test_too_many_words() -> None:
    verdict = quality("the and " * 50_001)
    assert verdict is not None
    assert (verdict.reason, verdict.value, verdict.limit) == ("gopher_quality.max_words", 100_002, 100_000)


def test_stop_words_are_found_wherever_they_stand() -> None:
    names = "Paris Lyon Nantes Lille Metz " * 200
    assert quality(names + "The. (AND)") is None
    assert quality("the and " + names) is None
    assert quality(names.replace("Nantes", "thereof andor")) is not None


def test_languages_without_stop_words_are_not_asked_for_any() -> None:
    text = "paka mbwa samaki ndege simba tembo twiga " * 10
    assert quality(text, "sw") is None
    assert quality(text, None) is None
    assert quality(text, "en") is not None


def test_characters_are_words_in_japanese() -> None:
    # 97 characters: 50 words of 2 characters are asked for.
    verdict = quality(PROSE_JA[:97], "ja")
    assert verdict is not None
    assert (verdict.reason, verdict.limit) == ("gopher_quality.min_words", 100)
    products = quality("新型高性能冷蔵庫特価販売中在庫限定" * 10, "ja")
    assert products is not None
    assert products.reason == "gopher_quality.min_stop_words"


def paragraphs(sample_data: Path, language: str) -> list[str]:
    """Texts of 15 sentences of a language."""
    lines = (sample_data / f"langid-lingua/{language}.sentences.txt").read_text(encoding="utf-8").splitlines()
    return ["\n".join(lines[start : start + 15]) for start in range(0, len(lines) - 15, 15)]


@pytest.mark.data
@pytest.mark.parametrize(
    "language", ["de", "en", "es", "fr", "it", "ja", "ko", "nl", "pl", "pt", "ru", "sv", "th", "tr", "uk", "vi", "zh"]
)
def test_prose_of_many_languages_has_its_stop_words(sample_data: Path, language: str) -> None:
    texts = paragraphs(sample_data, language)
    reasons = [verdict and verdict.reason for verdict in (quality(text, language) for text in texts)]
    assert reasons.count(None) >= 0.97 * len(texts), reasons


@pytest.mark.data
@pytest.mark.parametrize("language", ["de", "fr", "ja", "ru", "zh"])
def test_stop_words_tell_languages_apart(sample_data: Path, language: str) -> None:
    only = {"min_words": 0, "min_mean_word_length": 0, "max_mean_word_length": 999, "min_alphabetic_words": 0}
    verdicts = [quality(text, "en", **only) for text in paragraphs(sample_data, language)]
    dropped = [verdict for verdict in verdicts if verdict and verdict.reason == "gopher_quality.min_stop_words"]
    assert len(dropped) >= 0.9 * len(verdicts)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("\n\n".join(["A paragraph of its own."] * 4 + ["Another one.", "And one more."]), "max_duplicate_paragraphs"),
        ("\n".join(["same line"] * 5 + [f"line number {i} is its own" for i in range(7)]), "max_duplicate_lines"),
        (
            "\n".join(["a long line that is there twice, word for word"] * 2 + [f"short {i}" for i in range(9)]),
            "max_duplicate_line_characters",
        ),
        (
            "\n\n".join(["a long one that is there twice, word for word"] * 2 + [f"short {i}" for i in range(9)]),
            "max_duplicate_paragraph_characters",
        ),
        ("over there " * 3 + "something else is said here, once only", "max_top_ngram"),
        (
            "one two three four five six seven eight nine. Red orange yellow green blue indigo violet black white. "
            "January February March April May June July August September. And these are said again, as follows: "
            "one two three four five six seven eight nine. Red orange yellow green blue indigo violet black white. "
            "January February March April May June July August September. So ends this test, with some other words.",
            "max_duplicate_ngrams",
        ),
    ],
)
def test_repetition(text: str, key: str) -> None:
    verdict = repetition(text)
    assert verdict is not None
    assert verdict.reason == f"gopher_repetition.{key}"
    assert verdict.value is not None
    assert verdict.limit is not None
    assert verdict.value > verdict.limit


def test_repetition_in_japanese_is_measured_in_characters() -> None:
    phrase = "この商品はたいへんよく売れております、ぜひご覧ください。"
    verdict = repetition(PROSE_JA + phrase + PROSE_JA[:60] + phrase + "それではまた。" + phrase, "ja")
    assert verdict is not None
    assert verdict.reason == "gopher_repetition.max_duplicate_ngrams"


@given(st.text("ab\n ", max_size=40))
def test_paragraphs_are_what_the_regular_expression_splits(text: str) -> None:
    assert split_paragraphs(text) == [part for part in re.split(r"\n{2,}", text.strip()) if part]


@given(st.lists(st.text("ab", max_size=3), max_size=20))
def test_duplicates_are_counted_behind_the_first(parts: list[str]) -> None:
    later = [part for place, part in enumerate(parts) if part in parts[:place]]
    assert duplicates(parts) == (len(later), sum(map(len, later)))
