from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tatara.tracking.markup import Markup, clip, duration, escape, figure, join, large, size, tag


class Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((name, dict(attributes)))

    def handle_data(self, data: str) -> None:
        self.text += data


@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cn"])))
def test_text_and_attributes_come_back_as_they_were(text: str) -> None:
    reader = Reader()
    reader.feed(tag("p", text, title=text))
    reader.close()
    assert reader.tags == [("p", {"title": text})]
    assert reader.text == text


@given(st.text())
def test_any_text_can_be_written_as_utf8(text: str) -> None:
    escape(text).encode()
    escape(text + "\ud800\x00").encode()


def test_only_markup_is_trusted() -> None:
    assert join("<b>", Markup("<i></i>"), None, ["&", 3]) == "&lt;b&gt;<i></i>&amp;3"
    assert tag("input", class_="x", disabled=True, hidden=False, aria_label="a") == (
        '<input class="x" disabled aria-label="a">'
    )


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (duration(0.44), "0.4 s"),
        (duration(9.96), "10 s"),
        (duration(59.7), "1 min 00 s"),
        (duration(185), "3 min 05 s"),
        (duration(7800), "2 h 10 min"),
        (duration(None), "\u2013"),
        (size(1023), "1,023 B"),
        (size(31_457_280), "30.0 MiB"),
        (size("?"), "?"),
        (large(2_101_248), "2.1 M"),
        (large(8_030_000_000), "8.0 B"),
        (large(950), "950"),
        (figure(3.01871), "3.019"),
        (figure(3.4e-6), "3.40e-06"),
        (figure(8192), "8,192"),
        (figure(float("nan")), "nan"),
        (figure(True), "True"),
        (clip("abcdef", 3), "abc… (3 more characters)"),
    ],
)
def test_figures(shown: str, expected: str) -> None:
    assert shown == expected
