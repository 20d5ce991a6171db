"""The two labelled sets of web pages, and how each is scored.

Articles: scrapinghub/article-extraction-benchmark, whole texts; precision and recall over 4-grams of words (its
``evaluate.py``), averaged over pages. Phrases: adbar/trafilatura's own evaluation, phrases that must be in the text and
phrases that must not (its ``tests/evaluate.py``), counted over all pages.
"""

import gzip
import io
import json
import re
import statistics
import tarfile
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

_WORD = re.compile(r"\w+")
_SPACE = re.compile(r"\s+")
_SECOND_LEVEL = {"co", "com", "org", "net", "ac", "gov", "or", "ne", "go"}


@dataclass(frozen=True)
class Page:
    """A labelled page: its whole article, or phrases."""

    name: str
    content: bytes
    url: str
    article: str | None = None
    wanted: tuple[str, ...] = ()
    unwanted: tuple[str, ...] = ()


def articles(directory: Path) -> list[Page]:
    """The pages of which the whole article is known."""
    rows = json.loads(gzip.decompress((directory / "ground-truth.json.gz").read_bytes()))
    pages = directory / "html"
    return [
        Page(
            name, gzip.decompress((pages / f"{name}.html.gz").read_bytes()), row.get("url") or name, row["articleBody"]
        )
        for name, row in sorted(rows.items())
    ]


def phrases(directory: Path) -> list[Page]:
    """The pages of which phrases are known, from an archive or from the directories of a checkout."""
    rows = json.loads((directory / "evaldata.json").read_text(encoding="utf-8"))
    archive = directory / "pages.tar.gz"
    contents: dict[str, bytes] = {}
    if archive.exists():
        with tarfile.open(fileobj=io.BytesIO(archive.read_bytes())) as stored:
            for member in stored:
                reader = stored.extractfile(member)
                if reader is not None:
                    contents[Path(member.name).name] = reader.read()
    else:
        for folder in ("eval", "cache"):
            contents |= {path.name: path.read_bytes() for path in (directory / folder).iterdir() if path.is_file()}
    return [
        Page(row["file"], contents[row["file"]], url, None, tuple(row["with"]), tuple(row["without"]))
        for url, row in sorted(rows.items())
    ]


def site_of(page: Page) -> str:
    """The registered domain that a page is from."""
    host = urlsplit(page.url if "://" in page.url else f"http://{page.url}").netloc.lower().split(":")[0]
    parts = host.split(".")
    return ".".join(parts[-3 if len(parts) > 2 and parts[-2] in _SECOND_LEVEL else -2 :])


def fold_of(page: Page, folds: int, salt: str = "") -> int:
    """Which fold a page is in; pages of one site are never in two."""
    return zlib.crc32(f"{salt}{site_of(page)}".encode()) % folds


def article_words(text: str) -> list[str]:
    """The words that are compared."""
    return _WORD.findall(text)


def article_counts(page: Page, text: str) -> tuple[float, float, float]:
    """Right, wrong and missed 4-grams, as shares of all of them."""
    wanted, found = (
        Counter(tuple(words[at : at + 4]) for at in range(max(1, len(words) - 3)) if words)
        for words in (article_words(page.article or ""), article_words(text))
    )
    right = sum((wanted & found).values())
    wrong, missed = sum(found.values()) - right, sum(wanted.values()) - right
    total = max(right + wrong + missed, 1)
    return right / total, wrong / total, missed / total


def article_scores(counts: Sequence[tuple[float, float, float]]) -> tuple[float, float, float]:
    """F1, precision, recall: the means over pages, and their harmonic mean."""
    precision = statistics.mean(right / (right + wrong) for right, wrong, _ in counts if right + wrong > 0)
    recall = statistics.mean(right / (right + missed) for right, _, missed in counts if right + missed > 0)
    return 2 * precision * recall / (precision + recall), precision, recall


def normal(text: str) -> str:
    """Text with white space collapsed."""
    return _SPACE.sub(" ", text).strip()


def phrase_counts(page: Page, text: str) -> tuple[int, int, int, int]:
    """Phrases rightly found, wrongly found, missed, rightly left out."""
    spaced = normal(text)
    right = sum(normal(phrase) in spaced for phrase in page.wanted)
    wrong = sum(normal(phrase) in spaced for phrase in page.unwanted)
    return right, wrong, len(page.wanted) - right, len(page.unwanted) - wrong


def phrase_scores(counts: Sequence[tuple[int, int, int, int]]) -> tuple[float, float, float]:
    """F1, precision, recall over all phrases."""
    right, wrong, missed, _ = (sum(column) for column in zip(*counts, strict=True))
    return 2 * right / (2 * right + wrong + missed), right / max(right + wrong, 1), right / max(right + missed, 1)
