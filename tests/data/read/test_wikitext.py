import time

import pytest

from tatara.data.read.wikitext import plain_text


@pytest.mark.parametrize(
    ("wikitext", "expected"),
    [
        ("'''Bold''' and ''italic'' text.", "Bold and italic text."),
        ("A [[link]], a [[target page|labelled link]] and [[two_words]]s.", "A link, a labelled link and two wordss."),
        ("[[File:a.jpg|thumb|A caption with a [[link]].]]Text[[Category:Things]][[de:Ding]]", "Text"),
        ("See [[:Category:Things]] and [[Berlin (city)|]].", "See Category:Things and Berlin."),
        ("[http://a.b/c A site], [http://a.b] and http://a.b/", "A site, and http://a.b/"),
        ("{{Infobox\n| name = {{nested|{{deep}}}}\n}}\nText{{cite|x}}.", "Text."),
        ("{{lang|fr|Bonjour}} {{convert|5|km|mi}} {{nowrap|no wrap}}", "Bonjour 5 km no wrap"),
        ('Text.<ref>A source.</ref><ref name=x /> More<ref name="y">Z</ref>.', "Text. More."),
        ("One<!-- hidden\nlines -->two", "Onetwo"),
        ("{{unclosed template and [[unclosed link", "unclosed template and unclosed link"),
        ("closed}} twice]]", "closed}} twice]]"),
        ("x&nbsp;=&nbsp;1 &lt; 2 &amp; &eacute;", "x\xa0=\xa01 < 2 & é"),
        ("m<sup>2</sup>, H<sub>2</sub>O, x<sup>abc</sup>", "m², H₂O, xabc"),
        ("one<br/>two<br>three", "one\ntwo\nthree"),
        ("<nowiki>'''[[kept]]'''</nowiki>", "'''[[kept]]'''"),
        ("Euler: <math>e^{i \\pi} + 1 = \\frac{0}{1}</math>.", "Euler: $e^{i \\pi} + 1 = \\frac{0}{1}$."),
        ('<math display="block">\na < b\n</math>', "$$a < b$$"),
        ("Use <code>a[[0]] | b</code>.", "Use `a[[0]] | b`."),
        (
            "<syntaxhighlight lang=\"python\">\nif a < b:\n    '''x'''\n\n    y = {{1}}\n</syntaxhighlight>",
            "```python\nif a < b:\n    '''x'''\n\n    y = {{1}}\n```",
        ),
        ("* one\n** two\n# three\n: indented\n; term", "- one\n  - two\n- three\nindented\nterm"),
        ("== Heading ==\nText\n=== Deeper ===\nMore", "## Heading\n\nText\n\n### Deeper\n\nMore"),
        ("Text\n== Empty ==\n=== Also ===\n== Full ==\nx\n== References ==\n{{reflist}}", "Text\n\n## Full\n\nx"),
        ("== Only ==\n=== Deep ===\nx", "## Only\n\n### Deep\n\nx"),
        (
            '{| a="x"\n|+ Caption\n! Name !! Size\n|-\n| style="x" | [[A]] || 1\n|-\n| B\n| {{nowrap|2}}\n|}\nAfter',
            "Caption\nName | Size\nA | 1\nB | 2\n\nAfter",
        ),
        ("{|\n| outer\n{|\n| inner\n|}\nText", "outer | inner\n\nText"),
        ("A ({{IPA|x}}; born 1900) person ().", "A (born 1900) person."),
        ("__NOTOC__ text", "text"),
        ("", ""),
    ],
)
def test_what_a_page_shows(wikitext: str, expected: str) -> None:
    assert plain_text(wikitext) == expected


def test_names_of_namespaces_in_the_wikis_language() -> None:
    assert plain_text("本文[[ファイル:a.jpg|説明]][[カテゴリ:物]]", ["ファイル", "カテゴリ"]) == "本文"
    assert plain_text("[[Datei:a.jpg|Text]]") == "Text"


UNITS = (
    "{{", "[[", "{{a|", "}}", "]]", "<!--", "<math>", "</math>", "<ref>", "''", "[http:", "=", "= a ", "{|\n", "|\n",
    "\n|-\n|a||b", "\n*", "<a ", " /", "{{[[", "{{[[}}]]", "( ", "（", "&amp;", "&", "\n== x ==", "\x00", "<sup>", "  ",
)  # fmt: skip


@pytest.mark.parametrize("unit", UNITS)
def test_time_grows_with_length_alone(unit: str) -> None:
    def seconds(count: int) -> float:
        text = unit * count
        best = float("inf")
        for _ in range(3):
            start = time.process_time()
            plain_text(text)
            best = min(best, time.process_time() - start)
        return best

    assert seconds(16_000) < 16 * seconds(2_000) + 0.05


@pytest.mark.parametrize("text", ["[http:" + "a" * 10**6, "=" + " " * 10**6 + "x", "<a" + " /" * 10**6, "'" * 10**6])
def test_a_long_unfinished_thing(text: str) -> None:
    start = time.process_time()
    plain_text(text)
    assert time.process_time() - start < 2


def test_deep_nesting_ends() -> None:
    assert plain_text("{{lang|fr|" * 50 + "core" + "}}" * 50) == "core"
    start = time.process_time()
    plain_text("{{lang|fr|" * 20_000 + "core" + "}}" * 20_000)
    assert time.process_time() - start < 3
