import pytest

from tatara.data import filters
from tatara.data.curate import C4Config, GopherQualityConfig, GopherRepetitionConfig, LengthConfig

PROSE = (
    "The furnace turned iron sand into steel, and the smiths who tended it for three days and nights knew its moods. "
    "They fed charcoal and sand by the hour, watched the colour of the flames, and listened to the bellows. "
    "When the work was done they broke the clay walls to take the bloom out. "
    "Most of that bloom was of middling quality, but a part of it was good enough to be forged into blades."
)


def test_prose_passes_every_rule() -> None:
    assert filters.length(PROSE, LengthConfig()) is None
    assert filters.c4(PROSE, C4Config()) is None
    assert filters.gopher_quality(PROSE, GopherQualityConfig()) is None
    assert filters.gopher_repetition(PROSE, GopherRepetitionConfig()) is None


def test_length_counts_characters() -> None:
    verdict = filters.length("x" * 99, LengthConfig())
    assert verdict is not None
    assert (verdict.reason, verdict.value, verdict.limit) == ("length.min_characters", 99, 100)
    assert filters.length("x" * 99, LengthConfig(enabled=False)) is None


@pytest.mark.parametrize(
    ("text", "config", "reason", "value"),
    [
        (PROSE + " Lorem Ipsum.", C4Config(), "c4.drop_lorem_ipsum", 1),
        ("One. Two words here", C4Config(), "c4.min_sentences", 1),
        ("A. B! C? {", C4Config(drop_curly_bracket=True), "c4.drop_curly_bracket", 1),
    ],
)
def test_c4(text: str, config: C4Config, reason: str, value: float) -> None:
    verdict = filters.c4(text, config)
    assert verdict is not None
    assert (verdict.reason, verdict.value) == (reason, value)


def test_c4_counts_sentences_that_end_in_quotes_and_in_japanese() -> None:
    assert filters.c4('He said "no." Then (perhaps.) nothing. ', C4Config(min_sentences=3)) is None
    assert filters.c4("一つ。二つ。三つ。", C4Config(min_sentences=3)) is None
    assert filters.c4("version 1.2.3 is out", C4Config(min_sentences=1)) is not None


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("the cat and " * 10, "min_words", 30),
        ("a b of the " * 20, "min_mean_word_length", 1.75),
        ("the incomprehensibilities and incomprehensibilities " * 20, "max_mean_word_length", 12),
        ("the # which that dogs chase " * 20, "max_symbol_ratio", 1 / 6),
        ("- the kitten and that\n" * 20, "max_bullet_lines", 1.0),
        ("the story of that cat...\n" * 6 + "the end and with that the dog\n" * 12, "max_ellipsis_lines", 1 / 3),
        ("the 1234 and 5678 that " * 20, "min_alphabetic_words", 0.6),
        ("cats chase mice through gardens nightly " * 20, "min_stop_words", 0),
    ],
)
def test_gopher_quality(text: str, key: str, value: float) -> None:
    verdict = filters.gopher_quality(text, GopherQualityConfig())
    assert verdict is not None
    assert verdict.reason == f"gopher_quality.{key}"
    assert verdict.value == pytest.approx(value)
    relaxed = {"min_words": 0, "min_stop_words": 0, "max_symbol_ratio": 1, "max_bullet_lines": 1}
    relaxed |= {"max_ellipsis_lines": 1, "min_alphabetic_words": 0, "min_mean_word_length": 0}
    relaxed |= {"max_mean_word_length": 99}
    assert filters.gopher_quality(text, GopherQualityConfig(**{key: relaxed[key]})) is None


def test_gopher_quality_drops_too_many_words() -> None:
    verdict = filters.gopher_quality("the and " * 50_001, GopherQualityConfig())
    assert verdict is not None
    assert (verdict.reason, verdict.value) == ("gopher_quality.max_words", 100_002)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("\n\n".join(["A paragraph of its own."] * 4 + ["Another one.", "And one more."]), "max_duplicate_paragraphs"),
        ("\n".join(["same line"] * 5 + [f"line number {i} is its own" for i in range(7)]), "max_duplicate_lines"),
        (
            "\n".join(["a long line that is there twice, word for word"] * 2 + [f"short {i}" for i in range(9)]),
            "max_duplicate_line_characters",
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
def test_gopher_repetition(text: str, key: str) -> None:
    verdict = filters.gopher_repetition(text, GopherRepetitionConfig())
    assert verdict is not None
    assert verdict.reason == f"gopher_repetition.{key}"
    assert verdict.value > verdict.limit


def test_top_ngram_counts_all_occurrences_of_the_longest_of_the_most_frequent() -> None:
    words = ["aa", "bb", "aa", "bb", "ccc", "ddd", "ccc", "ddd"]
    # "aa bb" and "ccc ddd" occur twice; the longer counts: 7 characters with its space, twice.
    assert filters.top_ngram_characters(words, 2) == 14
    assert filters.top_ngram_characters(["a", "b", "c"], 2) == 0
    assert filters.top_ngram_characters(["a"], 2) == 0


def test_duplicate_ngram_characters_counts_overlapping_repeats_once() -> None:
    assert filters.duplicate_ngram_characters(["ab"] * 10, 5) == 5 * 2
    assert filters.duplicate_ngram_characters(["a", "b", "c", "d", "e", "f", "g"], 5) == 0


@pytest.mark.timeout(100)
@pytest.mark.parametrize("text", ["a", "!", "\n", ". ", ")", "...", ".)", "- ", " \n \n"])
def test_hostile_texts_end(text: str) -> None:
    """Work that grows with the square of the length would take hours on these."""
    sample = text * 1_000_000
    filters.c4(sample, C4Config())
    filters.gopher_quality(sample, GopherQualityConfig(min_words=0, max_words=10**9))
    filters.gopher_repetition(sample, GopherRepetitionConfig())


def test_empty_texts_are_no_error() -> None:
    for text in ("", " ", "\n\n"):
        assert filters.gopher_quality(text, GopherQualityConfig(min_words=0)) is None
        assert filters.gopher_repetition(text, GopherRepetitionConfig()) is None
