"""What is kept of a page, and in which form."""

import gzip
import re

import pytest

from tatara.data.extract.config import ExtractConfig
from tatara.data.extract.pages import extract

FILLER = (
    "The committee met on Tuesday to discuss the results of the study, which had taken more than three years to end.",
    "Nobody had expected the outcome, least of all the engineers, who had argued for another design from the start.",
    "In the end, the measurements left little room for doubt, and the report was published without further changes.",
)
NAVIGATION = "".join(f'<li><a href="/{name}">{name.title()}</a></li>' for name in ("home", "news", "sports", "contact"))


def article(body: str, head: str = "") -> str:
    """A page as they are: navigation, an article with something in the middle, a footer."""
    return (
        f"<!DOCTYPE html><html><head><title>Results of the"
        f" study</title>{head}</head><body><nav><ul>{NAVIGATION}</ul></nav>"
        f"<main><article class='post'><h1>Results of the study</h1><div class='entry-content'><p>{FILLER[0]}</p>"
        f"<p>{FILLER[1]}</p>{body}<p>{FILLER[2]}</p><p>{FILLER[0]}</p></div></article></main>"
        "<footer class='footer'><p>Copyright 2020, all rights reserved. <a"
        " href='/terms'>Terms</a></p></footer></body></html>"
    )


def text_of(body: str, **options) -> str:
    text = extract(article(body), ExtractConfig(**options)).text
    assert FILLER[1] in text
    assert FILLER[2] in text
    return text


def test_an_article_without_what_is_around_it():
    found = extract(article(""), ExtractConfig())
    assert found.text.split("\n\n")[-4:] == [*FILLER, FILLER[0]]
    assert found.title == "Results of the study"
    for boilerplate in ("Sports", "Contact", "Copyright", "Terms"):
        assert boilerplate not in found.text


def test_title_author_and_date():
    head = '<meta name="author" content="Ada &amp; Bob"><meta property="article:published_time" content="2020-01-02">'
    found = extract(article("", head), ExtractConfig())
    assert (found.author, found.date) == ("Ada & Bob", "2020-01-02")


def test_words_are_not_glued_and_inline_markup_is_not_torn():
    text = text_of(
        "<p>One<br>two <b>bo</b>ld <i>three</i>,four&nbsp;five&amp;six\n   seven <span>eight</span><span>"
        " nine</span> and so the"
        " sentence goes on, <a href=x>with a link</a>.</p><div>Then a <em>new</em> block of text,<p>and another one"
        " inside it,"
        " which is also long enough.</p>and what follows it, in a block of its own.</div>"
    )
    assert "One\ntwo bold three,four five&six seven eight nine and so the sentence goes on, with a link." in text
    assert (
        "Then a new block of text,\n\nand another one inside it, which is also long enough.\n\nand what follows it,"
        in text
    )


def test_code_is_kept_as_it_is():
    text = text_of(
        "<p>The program that was used looks like this, in the language of the time:</p>"
        "<pre class='highlight'><code>\ndef <span class='k'>area</span>(r):\n    if r &lt; 0:\n\treturn   None\n\n "
        "   return 3 * r</code></pre>"
    )
    assert "\n\n```\ndef area(r):\n    if r < 0:\n\treturn   None\n\n    return 3 * r\n```\n\n" in text


def test_code_of_a_viewer_that_wraps_lines():
    text = text_of(
        "<p>The listing below shows how the values were computed, line by line:</p><pre><code>"
        "<div class='line'><span class='lineno'>1</span>for x in xs:</div>"
        "<div class='line'><span class='lineno'>2</span>    print(x)</div></code></pre>"
    )
    assert "```\nfor x in xs:\n    print(x)\n```" in text


def test_tables():
    body = (
        "<p>The measurements of both years are listed in the table, in the units of the original report:</p>"
        "<table><thead><tr><th>Year<th>Length<th>Weight</thead><tbody><tr><td>2019<td><td>7"
        " kg<tr><td>2020</td><td><p>12</p><p>m</p></td>"
        "<td>9 kg</td></tr></table>"
    )
    assert "\n\nYear | Length | Weight\n2019 |  | 7 kg\n2020 | 12 m | 9 kg\n\n" in text_of(body)
    assert "7 kg" not in text_of(body, tables=False)


def test_tables_that_are_layout_are_text():
    body = (
        f"<table><tr><td><p>{FILLER[0]} {FILLER[1]}</p><p>{FILLER[2]}</p></td>"
        f"<td><p>{FILLER[1]} {FILLER[2]} {FILLER[0]}</p></td></tr></table>"
    )
    text = text_of(body)
    assert " | " not in text
    assert f"{FILLER[0]} {FILLER[1]}\n\n{FILLER[2]}\n\n{FILLER[1]}" in text


def test_lists():
    body = (
        "<p>Three things were found to matter more than all of the others that had been considered:</p>"
        "<ol start=3><li>The length of the beam, which was larger than expected, by far.<li>The weight of it, which"
        " nobody had measured."
        "<ul><li>Nested, in a list of its own, and long enough to be text.</ul></ol>"
    )
    text = text_of(body)
    assert "\n\n3. The length of the beam, which was larger than expected, by far.\n4. The weight" in text
    assert "\n  - Nested, in a list" in text
    assert "\nThe length of the beam" in text_of(body, lists=False)


def test_headings_and_links():
    link = "<a href='/a?x=1&amp;y=2'>the <b>full</b> report</a>"
    body = f"<h2>How it was measured</h2><p>{FILLER[0]} See {link} for it.</p>"
    assert "How it was measured" in text_of(body)
    text = text_of(body, headings=True, links=True)
    assert "\n\n## How it was measured\n\n" in text
    assert "See [the full report](/a?x=1&y=2) for it." in text


def test_comments_only_when_asked_for():
    body = "".join(
        f"<div class='comment' id='comment-{n}'><p class='comment-author'>user{n}</p><div class='comment-body'><p>I"
        f" do not agree with "
        f"this at all, and neither does anybody I know, number {n}.</p></div></div>"
        for n in range(5)
    )
    page = article("").replace("</main>", f"</main><section id='comments' class='comments-area'>{body}</section>")
    assert "do not agree" not in extract(page, ExtractConfig()).text
    assert extract(page, ExtractConfig(comments=True)).text.count("do not agree") == 5


X = r"\frac{a}{b} \leq \alpha"
ENTITIES = r"a &lt; b &amp; c"
FORMULAS = {
    "script": (r'<script type="math/tex">a < b & c</script>', "$a < b & c$"),
    "script, display": (r'<script type="math/tex; mode=display">' + X + "</script>", f"$${X}$$"),
    "mathjax 2": (
        '<span class="MathJax_Preview">ab</span><span class="MathJax"'
        ' id="e"><nobr><span>a</span><span>b</span></nobr></span>'
        f'<script type="math/tex">{X}</script>',
        f"${X}$",
    ),
    "annotation": (
        f'<math><semantics><mrow><mi>a</mi><mo>≤</mo></mrow><annotation'
        f' encoding="application/x-tex">{ENTITIES}</annotation>'
        "</semantics></math>",
        "$a < b & c$",
    ),
    "katex": (
        f'<span class="katex"><span class="katex-mathml"><math><semantics><mrow><mi>a</mi></mrow><annotation'
        f' encoding="application/x-tex">{X}'
        '</annotation></semantics></math></span><span class="katex-html"'
        ' aria-hidden="true"><span>ab</span></span></span>',
        f"${X}$",
    ),
    "alttext": (f'<math alttext="{X}" display="block"><mi>a</mi></math>', f"$${X}$$"),
    "mathjax 3": (
        '<mjx-container class="MathJax" jax="CHTML"><mjx-math class="MJX-TEX"'
        ' aria-hidden="true"><mjx-mi>ab</mjx-mi></mjx-math>'
        f'<mjx-assistive-mml><math alttext="{X}"><mi>a</mi></math></mjx-assistive-mml></mjx-container>',
        f"${X}$",
    ),
    "wikipedia": (
        '<span class="mwe-math-element"><span class="mwe-math-mathml-inline" style="display: none;"><math'
        ' alttext="{\\displaystyle '
        + X + '}"><semantics><mi>a</mi><annotation encoding="application/x-tex">{\\displaystyle ' + X
        + '}</annotation></semantics></math></span><img src="x.svg" class="mwe-math-fallback-image-inline" '
        'alt="{\\displaystyle '
        + X + '}"></span>',
        f"${X}$",
    ),
    "image": (f'<img class="latex" src="a.png" alt="${X}$">', f"${X}$"),
    "text": (f"${X}$", f"${X}$"),
    "no source": ("<math><mi>a</mi><mo>=</mo><mn>2</mn></math>", "a=2"),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMULAS)
def test_formulas_are_kept_once(form):
    markup, wanted = FORMULAS[form]
    text = text_of(
        f"<p>It follows that {markup} holds for every beam that was measured in the course of the study.</p>"
    )
    assert f"It follows that {wanted} holds for every beam" in text
    assert text.count("alpha") == wanted.count("alpha")


def test_hidden_words_scripts_and_comments_are_no_text():
    text = text_of(
        "<p>Seen <span style='display: none'>hidden one</span>text<!-- a > b <p>not this</p> --><script>if (a<b)"
        " {c('</p>')}</script>"
        "<style>p > b {}</style> goes on here, as <noscript>no script</noscript>everybody can read.</p>"
    )
    assert "Seen text goes on here, as everybody can read." in text


@pytest.mark.parametrize("library", ["tatara", "resiliparse", "trafilatura"])
def test_every_library_answers(library):
    found = extract(article("").encode(), ExtractConfig(library=library))
    assert all(sentence in found.text for sentence in FILLER)
    assert found.title == "Results of the study"
    assert extract(b"", ExtractConfig(library=library)).text == ""


def test_decoding_is_part_of_it():
    japanese = "この文章は日本語で書かれており、本文の抽出を確かめるために十分な長さがあります。句読点もあります。"
    page = article("").replace(FILLER[1], japanese).replace("<head>", '<head><meta charset="Shift_JIS">')
    found = extract(page.encode("cp932"), ExtractConfig())
    assert found.encoding == "shift_jis"
    assert japanese in found.text


@pytest.mark.data
def test_japanese_pages(sample_data):
    for path in sorted((sample_data / "html-ja-pages").glob("*.gz")):
        found = extract(gzip.decompress(path.read_bytes()), ExtractConfig())
        assert len(re.findall("[ぁ-ん]", found.text)) > 10, path.name
        assert found.title


@pytest.mark.data
def test_a_clean_book_is_kept_whole(sample_data):
    for path in sorted((sample_data / "standardebooks-xhtml").glob("*sherlock*/the-*.xhtml")) or pytest.fail("no book"):
        raw = path.read_text(encoding="utf-8")
        paragraphs = [
            " ".join(re.sub(r"<[^>]+>", "", each).split()) for each in re.findall(r"<p>(.*?)</p>", raw, re.DOTALL)
        ]
        text = " ".join(extract(raw.encode(), ExtractConfig()).text.split())
        kept = sum(len(each) for each in paragraphs if each in text)
        assert kept > 0.97 * sum(map(len, paragraphs)), path.name
