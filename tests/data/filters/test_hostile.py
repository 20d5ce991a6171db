import functools
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tatara.data.document import Document
from tatara.data.filters import config
from tatara.data.filters.bad_words import BadWords
from tatara.data.filters.c4 import C4
from tatara.data.filters.c4_lines import C4Lines
from tatara.data.filters.fineweb import FineWeb
from tatara.data.filters.gopher_quality import GopherQuality
from tatara.data.filters.gopher_repetition import GopherRepetition
from tatara.data.filters.japanese import Japanese
from tatara.data.filters.length import Length
from tatara.data.filters.repetition import Repetition
from tatara.data.filters.url_filter import UrlFilter
from tatara.data.steps import RowStep

# Limits that nothing exceeds: every rule of a step is worked out.
LAX = {
    "gopher_quality": config.GopherQualityConfig(
        min_words=0, max_words=10**9, min_mean_word_length=0, max_mean_word_length=1e9, max_symbol_ratio=9,
        max_bullet_lines=1, max_ellipsis_lines=1, min_alphabetic_words=0, stop_words=("the", "の"),
    ),
    "gopher_repetition": config.GopherRepetitionConfig(
        max_duplicate_lines=1, max_duplicate_paragraphs=1, max_duplicate_line_characters=1,
        max_duplicate_paragraph_characters=1, max_top_ngram={2: 99, 3: 99, 4: 99},
        max_duplicate_ngrams=dict.fromkeys(range(5, 11), 99),
    ),
    "fineweb": config.FineWebConfig(
        min_punctuated_lines=0, max_short_lines=1, max_duplicate_line_characters=1, max_newlines=1e9
    ),
    "repetition": config.RepetitionConfig(
        max_ngram_coverage=1, max_masked_lines=1, max_character_run=10**9, min_compressed=0
    ),
    "japanese": config.JapaneseConfig(
        min_characters=0, min_japanese=0, min_hiragana=0, max_katakana=1, min_punctuation=0, min_sentence_text=0,
        min_mean_sentence=0, max_ellipsis_sentences=1, max_noun_runs=1, max_boilerplate_lines=1, trim_boilerplate=True,
    ),
    "c4": config.C4Config(min_sentences=10**9),
    "c4_lines": config.C4LinesConfig(),
    "length": config.LengthConfig(),
}  # fmt: skip
KINDS: dict[str, type[RowStep]] = {
    "gopher_quality": GopherQuality, "gopher_repetition": GopherRepetition, "fineweb": FineWeb, "c4": C4,
    "repetition": Repetition, "japanese": Japanese, "c4_lines": C4Lines, "length": Length, "bad_words": BadWords,
    "url_filter": UrlFilter,
}  # fmt: skip
UNITS = [
    "a", "a ", "!", "\n", ". ", ")", "...", ".)", "- ", " \n \n", "[1", "[", "1", "1 ", "あ", "。", "ア", "ア\n", "の ",
    "the ", "#", "\x00", "\ud800", "\u3000", "😀", "ab", "aab aab\n", "人気\n", "Lorem psum ", "続きを読",
    "javascript.\n",
]  # fmt: skip


@pytest.fixture
def steps(tmp_path: Path) -> dict[str, RowStep]:
    (tmp_path / "words").write_text("aab\naaaaaaab\nあああ\nア\n続きを読む\n", encoding="utf-8")
    words = str(tmp_path / "words")
    every = {
        **LAX,
        "bad_words": config.BadWordsConfig(language_lists={"*": (words,)}, max_density=None),
        "url_filter": config.UrlFilterConfig(
            domains=(words,), urls=(words,), strict_words=(words,), substrings=(words,)
        ),
    }
    made = {name: KINDS[name](each, tmp_path) for name, each in every.items()}
    for step in made.values():
        step.prepare()
    return made


def run(step: RowStep, text: str) -> None:
    step.apply([Document("x", text, "s", url=text)])


def fastest(work: Callable[[], None]) -> float:
    """Seconds of this thread alone, for other processes may be busy."""
    times = []
    for _ in range(2):
        start = time.thread_time()
        work()
        times.append(time.thread_time() - start)
    return min(times)


@pytest.mark.timeout(100)
@pytest.mark.parametrize("name", KINDS)
def test_work_grows_with_the_length_not_with_its_square(steps: dict[str, RowStep], name: str) -> None:
    step = steps[name]
    for unit in UNITS:
        small, large = unit * (12_500 // len(unit)), unit * (200_000 // len(unit))
        run(step, unit)
        if fastest(lambda text=large: run(step, text)) > 0.05:
            growth = fastest(lambda text=large: run(step, text)) / fastest(lambda text=small: run(step, text))
            # Memory is slower than caches: 16 times as long would be ideal, 256 times the square.
            assert growth < 110, f"{unit!r}: 16 times the length took {growth:.0f} times as long"


@pytest.mark.timeout(100)
@pytest.mark.parametrize("name", KINDS)
def test_ten_megabytes_without_a_space(steps: dict[str, RowStep], name: str) -> None:
    run(steps[name], "a" * 10_000_000)
    run(steps[name], "あ" * 3_000_000)


@functools.cache
def ready(name: str, lax: bool) -> RowStep:
    return KINDS[name](LAX[name] if lax else type(LAX[name])(), Path())


TEXTS = st.text(st.sampled_from("ab. \n\r#-…あア漢。「\ud800\x00\u2028İß1["), max_size=40)


@given(text=TEXTS, language=st.sampled_from([None, "en", "ja", "zh", "th", "xx"]))
def test_any_text_is_judged_and_the_batch_does_not_matter(text: str, language: str | None) -> None:
    for name in LAX:
        for lax in (True, False):
            step = ready(name, lax)
            alone = Document("x", text, "s", language=language)
            other = Document("y", "a b c. " + text, "s", language=language)
            again = Document("x", text, "s", language=language)
            verdict = step.apply([alone])[0]
            assert step.apply([other, again])[1] == verdict
            assert again.text == alone.text
