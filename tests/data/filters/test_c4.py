from pathlib import Path
from typing import Any

import pytest

from tatara.data.document import Document, Verdict
from tatara.data.filters.c4 import C4, sentences
from tatara.data.filters.c4_lines import C4Lines
from tatara.data.filters.config import C4Config, C4LinesConfig, LengthConfig
from tatara.data.filters.length import Length


def c4(text: str, language: str | None = "en", **values: Any) -> Verdict | None:
    return C4(C4Config(**values), Path()).judge(Document("x", text, "s", language=language))


def lines(text: str, language: str | None = "en", **values: Any) -> tuple[Document, Verdict | None]:
    document = Document("x", text, "s", language=language)
    return document, C4Lines(C4LinesConfig(**values), Path()).judge(document)


def test_length_counts_characters() -> None:
    step = Length(LengthConfig(max_characters=200), Path())
    assert step.judge(Document("x", "日" * 99, "s")) == Verdict("length.min_characters", 99, 100)
    assert step.judge(Document("x", "日" * 100, "s")) is None
    assert step.judge(Document("x", "日" * 201, "s")) == Verdict("length.max_characters", 201, 200)


@pytest.mark.parametrize(
    ("text", "values", "reason", "value"),
    [
        ("One. Two. Three. Lorem Ipsum.", {}, "c4.drop_lorem_ipsum", 1),
        ("One. Two. Three. LOREM IPSUM.", {}, "c4.drop_lorem_ipsum", 1),
        ("One. Two words here", {}, "c4.min_sentences", 1),
        ("A. B! C? {}{", {"drop_curly_bracket": True}, "c4.drop_curly_bracket", 2),
    ],
)
def test_c4(text: str, values: dict[str, Any], reason: str, value: float) -> None:
    verdict = c4(text, **values)
    assert verdict is not None
    assert (verdict.reason, verdict.value) == (reason, value)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ('He said "no." Then (perhaps.) nothing. ', 3),
        ("version 1.2.3 is out", 0),
        ("What?! Really... Yes", 2),
        ("一つ。二つ！三つ？", 3),
        ("यह एक है। यह दो है।", 2),
        ("Ends.\nAt a line!\n\nAnd here.", 3),
        ("!!!!!!!!", 1),
    ],
)
def test_sentences(text: str, count: int) -> None:
    assert sentences(text, 100) == count
    assert sentences(text, 1) == min(count, 1)


def test_thai_has_no_mark_at_the_end_of_a_sentence() -> None:
    text = "ช่างตีเหล็กเติมถ่านและทรายลงในเตาทุกชั่วโมง"
    assert c4(text, "th") is None
    assert c4(text, "en") is not None


def test_lines_that_are_sentences_stay() -> None:
    document, verdict = lines(
        "Home | About | Contact\n"
        "The smiths fed the furnace[1] with charcoal.\n"
        "  It burned for three days.[citation needed]  \n\n"
        "Read more...\n"
        "Please enable JavaScript to see this whole page.\n"
        "This site uses cookies to improve your experience.\n"
        "Too short it is.\n"
        "And then it went on and on...\n" + "x" * 1001 + " is one word too long for this.\n"
        '"They broke the walls," he said, "and left."'
    )
    assert verdict is None
    assert document.text == (
        "The smiths fed the furnace with charcoal.\n"
        "It burned for three days.\n"
        '"They broke the walls," he said, "and left."'
    )
    assert document.counts == {"c4_lines.lines": 7, "c4_lines.citations": 2}


def test_lines_in_japanese() -> None:
    document, verdict = lines(
        "ホーム\n会社概要\n職人たちは木炭と砂鉄を炉に入れた。\n続きは…\n「塊を取り出した」\n当サイトは利用規約に従います。\nはい。",
        "ja",
    )
    assert verdict is None
    assert document.text == "職人たちは木炭と砂鉄を炉に入れた。"
    assert document.counts["c4_lines.lines"] == 6


def test_a_document_of_which_nothing_is_left_is_dropped() -> None:
    document, verdict = lines("Home\nAbout\nContact")
    assert verdict == Verdict("c4_lines.lines", 0, 1)
    assert document.counts["c4_lines.lines"] == 3
    assert lines("")[1] is None
