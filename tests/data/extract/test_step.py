"""The step: what becomes of documents, and of pages that nobody should have written."""

import os
import time

import numpy as np
import pytest

from tatara.data.document import Document, Verdict
from tatara.data.extract.config import ExtractConfig
from tatara.data.extract.pages import extract
from tatara.data.extract.step import ExtractStep

SENTENCE = "This is a sentence of a paragraph, which is long enough to be taken for the text of a page. "
PAGE = f"<html><head><title>A page</title></head><body><p>{SENTENCE * 3}</p><p>{SENTENCE * 2}</p></body></html>"


def step(tmp_path, **options) -> ExtractStep:
    return ExtractStep(ExtractConfig(**options), tmp_path)


def page(content: bytes, **fields) -> Document:
    return Document(id="a", text="", source="s", content=content, **fields)


def test_text_passes_untouched(tmp_path):
    document = Document(id="a", text="<p>not a page</p>", source="s")
    assert step(tmp_path).apply([document]) == [None]
    assert document.text == "<p>not a page</p>"


def test_a_page_becomes_text(tmp_path):
    document = page(PAGE.encode("utf-16"), content_type="text/html")
    assert step(tmp_path).apply([document]) == [None]
    assert document.text == f"{SENTENCE * 3}".strip() + "\n\n" + f"{SENTENCE * 2}".strip()
    assert (document.content, document.encoding, document.metadata) == (None, "utf-16-le", {"title": "A page"})


def test_the_users_own_title_stays(tmp_path):
    document = page(PAGE.encode(), metadata={"title": "Mine"})
    step(tmp_path).apply([document])
    assert document.metadata["title"] == "Mine"


def test_pages_without_text_are_dropped(tmp_path):
    documents = [page(b""), page(b"<html><body><script>x</script></body></html>"), page(PAGE.encode())]
    assert step(tmp_path, min_characters=1000).apply(documents) == [
        Verdict("extract.min_characters", 0, 1000), Verdict("extract.min_characters", 0, 1000),
        Verdict("extract.min_characters", len(documents[2].text), 1000),
    ]  # fmt: skip


def test_the_rest_of_an_oversized_page_is_not_read(tmp_path):
    document = page(PAGE.encode() + b"<p>" + SENTENCE.upper().encode() * 1000)
    step(tmp_path, max_bytes=len(PAGE)).apply([document])
    assert SENTENCE.upper() not in document.text
    assert SENTENCE.strip() in document.text


def test_the_outcome_does_not_depend_on_neighbours(tmp_path):
    contents = [PAGE.encode(), b"", PAGE.replace("sentence", "phrase").encode(), b"<li>a" * 50]
    together, alone = [page(content) for content in contents], [page(content) for content in contents]
    verdicts = step(tmp_path).apply(together)
    assert verdicts == [verdict for each in alone for verdict in step(tmp_path).apply([each])]
    assert [each.text for each in together] == [each.text for each in alone]


BROKEN = {
    "truncated tag": PAGE.encode() + b"<div class='a",
    "truncated entity": PAGE.encode() + b"<p>&am",
    "stray ends": b"</p></div></table></td></html></b>" * 30 + PAGE.encode(),
    "crossed": b"<b><p>one two<i></b>three</p>four</i><table><p>five<div></table>six" * 20,
    "unclosed comment": PAGE.encode() + b"<!-- " + b"x" * 100,
    "unclosed script": PAGE.encode() + b"<script>" + b"<p>x" * 100,
    "unclosed cells": b"<table><tr><td>a<td>b<tr><td>c<table><tr><td>d" * 30,
    "NUL": PAGE.replace("sentence", "sen\0tence").encode(),
    "binary": bytes(np.random.default_rng(0).integers(0, 256, 50_000, dtype=np.uint8)),
    "only <": b"<" * 1000,
    "only >": b">" * 1000,
    "</": b"</" * 1000,
    "<!": b"<!" * 1000,
    "<a": b"<a" * 1000,
    "entities": b"<p>&#55296;&#0;&#x110000;&#99999999999;&;&&amp;amp;" * 10,
    "spaces": b"<p> &nbsp; &#160; \xc2\xa0" * 100,
}


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_pages(tmp_path, kind):
    for options in ({}, {"links": True, "headings": True, "comments": True, "threshold": 0.0}):
        document = page(BROKEN[kind])
        step(tmp_path, **options).apply([document])
        assert "\0" not in document.text
        document.text.encode("utf-8")
        if PAGE.encode() in BROKEN[kind]:
            assert SENTENCE.strip() in document.text


def test_lone_surrogates_in_text():
    assert SENTENCE.strip() in extract(PAGE.replace("page.", "page.\ud800"), ExtractConfig()).text


ENDLESS = {
    "div": b"<div>",
    "div, text": b"<div>x ",
    "b": b"<b>x",
    "a": b"<a href=x>x",
    "table": b"<table><tr><td>x",
    "crossed": b"<b><div></b>",
    "crossed inline": b"<i><b></i>",
    "section, td": b"<section><td></section>",
    "li": b"<li>x<div>",
    "ul": b"<ul><li>x",
    "p": b"<p>x",
    "comment": b"<!-- ",
    "comment end": b"<!-->",
    "quote": b"<a b='",
    "script": b"<script>x</script",
    "entity": b"&amp",
    "attributes": b"<p a=b c d=",
    "math": b"<math><annotation encoding=tex>x",
    "pre": b"<pre>\n<div>x",
    "meta": b"<meta name=x content=y ",
    "charset": b"<meta charset",
    "same words": b"<p class='nav comment'>nav nav ",
    "space": b" ",
    "letter": b"a",
}


@pytest.mark.parametrize("kind", ENDLESS)
def test_time_grows_no_faster_than_the_page(kind):
    """Eight times the page takes no more than about eight times as long; a quadratic step would take 64 times."""

    def seconds(size: int) -> float:
        content = ENDLESS[kind] * (size // len(ENDLESS[kind]))
        best = float("inf")
        for _ in range(2):
            started = time.process_time()
            extract(content, ExtractConfig(links=True))
            best = min(best, time.process_time() - started)
        return best

    seconds(1000)
    assert any(seconds(80_000) < 24 * max(seconds(10_000), 0.001) for _ in range(4))


def test_two_megabytes_of_nested_elements(tmp_path):
    document = page(b"<div>" * 400_000 + PAGE.encode())
    started = time.process_time()
    step(tmp_path).apply([document])
    assert SENTENCE.strip() in document.text
    assert time.process_time() - started < 10


def test_processes_agree(tmp_path):
    """Nothing depends on Python's hashes, which differ from process to process."""
    import subprocess
    import sys

    code = (
        "from tatara.data.extract.pages import extract; from tatara.data.extract.config import ExtractConfig;"
        "import sys; print(extract(sys.argv[1], ExtractConfig()).text)"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code, PAGE],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert outputs == {extract(PAGE, ExtractConfig()).text.encode() + b"\n"}
