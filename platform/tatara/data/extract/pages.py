"""From a raw page to its main text: a pure function."""

from dataclasses import dataclass

from tatara.data.extract.config import ExtractConfig
from tatara.data.extract.encoding import decode
from tatara.data.extract.engine import extract_page
from tatara.errors import require


@dataclass(frozen=True)
class Extracted:
    """What was found in a page.

    Attributes:
        text: Its main text, blocks separated by blank lines; empty where there is none.
        title: Its title.
        author: Who wrote it, where the page says so.
        date: When it was published, as the page writes it.
        encoding: How its bytes were read.
    """

    text: str
    title: str | None = None
    author: str | None = None
    date: str | None = None
    encoding: str = "utf-8"


def extract(
    content: bytes | str, config: ExtractConfig, content_type: str | None = None, url: str | None = None
) -> Extracted:
    """Extract the main text of a page.

    Args:
        content: The page; bytes are decoded as declared, or as what they look like.
        config: Which library extracts, and what it keeps.
        content_type: The HTTP header's value, for its charset.
        url: Where the page was published.

    Raises:
        MissingExtraError: The configured library is not installed.
    """
    if isinstance(content, bytes):
        page, encoding = decode(content[: config.max_bytes], content_type)
    else:
        page, encoding = content[: config.max_bytes], "utf-8"
    if config.library == "trafilatura":
        return _trafilatura(page, config, encoding, url)
    if config.library == "resiliparse":
        return _resiliparse(page, config, encoding)
    text, title, meta = extract_page(page, config)
    return Extracted(text, title or None, meta.get("author"), meta.get("date"), encoding)


def _resiliparse(page: str, config: ExtractConfig, encoding: str) -> Extracted:
    html = require("resiliparse.parse.html", "data")
    html2text = require("resiliparse.extract.html2text", "data")
    tree = html.HTMLTree.parse(page.replace("\0", ""))
    text = html2text.extract_plain_text(
        tree, main_content=True, comments=config.comments, links=config.links, list_bullets=config.lists
    )
    return Extracted(text.strip(), (tree.title or "").strip() or None, encoding=encoding)


def _trafilatura(page: str, config: ExtractConfig, encoding: str, url: str | None) -> Extracted:
    trafilatura = require("trafilatura", "data")
    found = trafilatura.bare_extraction(
        page.replace("\0", ""), url=url, include_comments=config.comments, include_tables=config.tables,
        include_links=config.links, with_metadata=True,
    )  # fmt: skip
    if found is None:
        return Extracted("", encoding=encoding)
    return Extracted((found.text or "").strip(), found.title, found.author, found.date, encoding)
