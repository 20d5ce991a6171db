"""Our own extractor: tokens, tree, blocks, features, two forests, text; all of it compiled, none of it recursive."""

import html
import re
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tatara.data.extract import render
from tatara.data.extract.choice import choose
from tatara.data.extract.config import ExtractConfig
from tatara.data.extract.features import COMMENT_NAME, NOWHERE, measure
from tatara.data.extract.score import Forest, in_context, predict
from tatara.data.extract.tokens import tokenize
from tatara.data.extract.tree import build

WEIGHTS = Path(__file__).with_name("weights.npz")
_SPACES = re.compile(r"\s+")
_HEAD = 65_536
MAX_BLOCKS = 100_000
"""Blocks of a page that are looked at; their features take about 130 MB of memory."""
_COMMENT_CHARACTERS = 20
_META = re.compile(rb"<meta\s[^<>]{1,1000}>", re.IGNORECASE)
_FIELD = re.compile(rb"(?:name|property|itemprop)\s*=\s*[\"']?([\w:.-]{1,40})", re.IGNORECASE)
_VALUE = re.compile(rb"content\s*=\s*(?:\"([^\"]{1,300})\"|'([^']{1,300})')", re.IGNORECASE)
_AUTHORS = (b"author", b"article:author", b"dc.creator", b"citation_author")
_DATES = (
    b"article:published_time",
    b"datepublished",
    b"dc.date",
    b"dc.date.issued",
    b"date",
    b"citation_date",
    b"pubdate",
)


@cache
def forests(path: Path = WEIGHTS) -> tuple[Forest, Forest]:
    """The two forests in a file of weights."""
    with np.load(path) as stored:
        first, second = (
            Forest(*(stored[f"{name}_{field}"] for field in Forest._fields)) for name in ("first", "second")
        )
    return first, second


def extract_page(page: str | bytes, config: ExtractConfig, weights: Path = WEIGHTS) -> tuple[str, str, dict[str, str]]:
    """Extract a page's main text.

    Args:
        page: The page, bytes being UTF-8.
        config: What to keep.
        weights: The classifier.

    Returns:
        The text, the title, and what the page's ``<meta>`` elements say of ``author`` and ``date``.
    """
    raw = page.encode("utf-8", errors="replace") if isinstance(page, str) else page
    data = np.frombuffer(raw, dtype=np.uint8)
    elements, segments, blocks, title = build(data, tokenize(data), b"math/tex" in raw)
    name = _plain(raw[title[0] : title[1]])
    meta = _meta(raw[:_HEAD])
    blocks = blocks[:MAX_BLOCKS]
    if not len(blocks):
        return "", name, meta
    features, counts, _, _ = measure(data, elements, segments, blocks, title)
    first, second = forests(weights)
    chances = predict(first, features)
    chances = predict(second, in_context(elements, blocks, counts, features, chances))
    if config.comments:
        chances = np.maximum(chances, _comments(features))
    keep, frames, tables = choose(elements, blocks, counts, chances, config.threshold, config.tables)
    written = render.render(data, elements, segments, blocks, keep, frames, tables, _options(config))
    return _finish(written.tobytes()), name, meta


def _comments(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """1 for blocks that read like text inside of what is named a comment, else 0: ``[blocks]``."""
    named, length, linked = features[:, COMMENT_NAME], features[:, 0], features[:, 2]
    return ((named < NOWHERE) & (length >= _COMMENT_CHARACTERS) & (linked < 0.3)).astype(np.float32)


def _options(config: ExtractConfig) -> int:
    wanted = { render.CODE: config.code, render.FORMULAS: config.mathematics,
        render.LISTS: config.lists, render.HEADINGS: config.headings, render.LINKS: config.links,
    }  # fmt: skip
    return sum(bit for bit, on in wanted.items() if on)


def _finish(written: bytes) -> str:
    text = written.decode("utf-8", errors="replace")
    if "&" in text:
        text = html.unescape(text)
    return text.replace("\xa0", " ").replace("\0", "").strip()


def _plain(raw: bytes) -> str:
    return _SPACES.sub(" ", html.unescape(raw.decode("utf-8", errors="replace"))).replace("\0", "").strip()


def _meta(head: bytes) -> dict[str, str]:
    found: dict[bytes, str] = {}
    for match in _META.finditer(head):
        field, value = _FIELD.search(match[0]), _VALUE.search(match[0])
        if field and value:
            found.setdefault(field[1].lower(), _plain(value[1] or value[2]))
    known = {"author": _AUTHORS, "date": _DATES}
    values = {key: next((found[name] for name in names if found.get(name)), "") for key, names in known.items()}
    return {key: value for key, value in values.items() if value}
