import bz2
import re
from collections import Counter
from html import escape, unescape
from pathlib import Path

import pytest

from tatara.data.document import Document, Quarantined
from tatara.data.raw_file import RawFile
from tatara.data.read.config import ReadConfig
from tatara.data.read.reader import read_file

HEAD = """<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.10/" xml:lang="ja">
  <siteinfo><base>https://ja.wikipedia.org/wiki/%E3%83%A1</base><namespaces>
  <namespace key="0" case="first-letter" /><namespace key="6" case="first-letter">ファイル</namespace>
  </namespaces></siteinfo>
"""


def page(number: int, text: str, title: str = "題", namespace: int = 0, more: str = "", model: str = "wikitext") -> str:
    return (
        f"  <page>\n    <title>{escape(title)}</title><ns>{namespace}</ns><id>{number}</id>{more}\n    <revision>\n"
        f"      <id>{number + 100}</id><timestamp>2020-01-02T03:04:05Z</timestamp>\n"
        f"      <contributor><id>7</id></contributor>\n"
        f'      <model>{model}</model><text xml:space="preserve">{escape(text)}</text>\n    </revision>\n  </page>\n'
    )


def read(path: Path, content: bytes, **config: object) -> list[Document | Quarantined]:
    path.write_bytes(content)
    return list(read_file(RawFile(str(path), path.name, "wiki", len(content)), ReadConfig(**config)))


def documents(found: list[Document | Quarantined]) -> list[Document]:
    return [item for item in found if isinstance(item, Document)]


def test_a_page_becomes_a_document(tmp_path: Path) -> None:
    content = HEAD + page(12, "'''本文'''[[ファイル:a.jpg|x]] <math>a<b</math> & x", "夏目 & 漱石") + "</mediawiki>"
    assert read(tmp_path / "jawiki.xml", content.encode()) == [
        Document(
            "jawiki.xml#12", "# 夏目 & 漱石\n\n本文 $a<b$ & x", "jawiki.xml",
            "https://ja.wikipedia.org/wiki/%E5%A4%8F%E7%9B%AE_%26_%E6%BC%B1%E7%9F%B3",
            {"title": "夏目 & 漱石", "page_id": 12, "revision_id": "112", "timestamp": "2020-01-02T03:04:05Z"},
        )
    ]  # fmt: skip


def test_other_namespaces_models_and_redirects_are_passed_over(tmp_path: Path) -> None:
    pages = [page(1, "a"), page(2, "talk", namespace=1), page(3, "b", more='<redirect title="x" />'),
             page(4, "return {}", model="Scribunto"), page(5, "")]  # fmt: skip
    content = (HEAD + "".join(pages)).encode()
    assert [item.id for item in read(tmp_path / "w.xml", content)] == ["w.xml#1"]
    more = {"namespaces": (), "redirects": True}
    assert [item.id for item in documents(read(tmp_path / "w.xml", content, wiki=more))] == [
        f"w.xml#{i}" for i in (1, 2, 3)
    ]


def test_only_the_last_revision_is_read(tmp_path: Path) -> None:
    old = "<revision><id>1</id><timestamp>x</timestamp><text>old</text></revision>"
    (found,) = documents(read(tmp_path / "w.xml", (HEAD + page(1, "new", more=old)).encode()))
    assert found.text == "# 題\n\nnew"
    assert found.metadata["revision_id"] == "101"


def test_a_bad_page_costs_no_other(tmp_path: Path) -> None:
    start = HEAD + page(1, "one")
    bad = [
        page(2, "two").replace("</page>", ""),
        page(4, "four").replace("<title>", "<titel>"),
    ]
    content = (start + bad[0] + page(3, "three") + bad[1]).encode() + b"<page>\xff</page>" + page(6, "six").encode()
    found = read(tmp_path / "w.xml", content)
    assert [item.id for item in documents(found)] == ["w.xml#1", "w.xml#3", "w.xml#6"]
    aside = [item for item in found if isinstance(item, Quarantined)]
    assert [item.reason.split(":")[0] for item in aside][:2] == ["a page without an end", "a page without title or id"]
    assert "utf-8" in aside[2].reason
    assert aside[0].place == content.index(b"<page>", len(start.encode()) - 1)
    assert [content[item.place : item.place + 6] for item in aside] == [b"<page>"] * 3


@pytest.mark.parametrize("cut", [10, 200, 400])
def test_a_dump_that_is_cut_short(tmp_path: Path, cut: int) -> None:
    content = (HEAD + "".join(page(i, "text " * 50) for i in range(5))).encode()
    found = read(tmp_path / "w.xml", content[:-cut])
    assert [item.id for item in documents(found)] == [f"w.xml#{i}" for i in range(4)]
    assert [item.reason for item in found if isinstance(item, Quarantined)] == ["a page without an end"]
    packed = bz2.compress(content) + bz2.compress((page(9, "x" * 5000)).encode())
    found = read(tmp_path / "w.xml.bz2", packed[:-20])
    assert [item.id for item in documents(found)] == [f"w.xml.bz2#{i}" for i in range(5)]
    assert [item.reason for item in found if isinstance(item, Quarantined)] == [
        "cut short: the bzip2 stream ends too early"
    ]


def test_other_xml_is_set_aside(tmp_path: Path) -> None:
    (found,) = read(tmp_path / "a.xml", b"<?xml version='1.0'?><rss><page>x</page></rss>")
    assert isinstance(found, Quarantined)
    assert "no dump of a wiki" in found.reason


@pytest.mark.data
def test_prose_of_real_articles_is_complete_and_free_of_markup(sample_data: Path) -> None:
    path = sample_data / "enwiki-xml-sample" / "enwiki-pages-articles-shortened.xml.bz2"
    content = bz2.decompress(path.read_bytes()).decode()
    found = {item.metadata["page_id"]: item.text for item in documents(read_all(path))}
    assert len(found) == 106
    expected, missing, marks, words = 0, 0, 0, 0
    for number, wikitext in re.findall(r"<id>(\d+)</id>\s*<revision>.*?<text[^>]*>([^<]*)</text>", content, re.DOTALL):
        if int(number) not in found:
            continue
        text = found[int(number)]
        have = Counter(re.findall(r"\w+", text))
        # Lines without anything to interpret, outside of templates, tables and comments, are shown as they are.
        source = re.sub(r"\{\{[^{}]*\}\}|<ref[^>]*>.*?</ref>|<!--.*?-->", "", unescape(wikitext), flags=re.DOTALL)
        for line in source.split("\n"):
            if re.match(r"[A-Z]\w+ ", line) and not re.search(r"[{}|<>\[\]=&_']", line):
                need = Counter(re.findall(r"\w+", line))
                expected += need.total()
                missing += (need - have).total()
        marks += len(re.findall(r"\[\[|\]\]|\{\{|\}\}|'''|<ref|\{\||\|\}|</", text))
        words += have.total()
    assert expected > 10_000
    assert missing < 0.002 * expected
    assert marks < 0.001 * words


def read_all(path: Path) -> list[Document | Quarantined]:
    return list(read_file(RawFile(str(path), path.name, "wiki", path.stat().st_size), ReadConfig()))
