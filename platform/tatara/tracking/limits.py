"""How much of a run goes into its report."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Limits:
    """Upper bounds that keep a report small enough to mail."""

    points: int = 800
    """Points per curve."""
    charts: int = 24
    """Charts per stage."""
    samples: int = 24
    """Samples of documents, of dropped documents and of generations, each."""
    excerpt: int = 1200
    """Characters of one sample."""
    config: int = 24_000
    """Characters of one stage's config."""
    value: int = 600
    """Characters of one figure, cell or config value."""
    rows: int = 100
    """Rows of one table."""
    log: int = 12_000
    """Characters of one stage's log, from its end."""
    sources: int = 8
    """Raw sources of one artifact in the lineage graph; the rest is one box."""


LEVELS = (
    Limits(),
    Limits(points=300, charts=8, samples=12, excerpt=600, config=6_000, value=300, rows=40, log=4_000),
    Limits(points=100, charts=4, samples=4, excerpt=200, config=1_500, value=120, rows=10, log=1_000, sources=4),
    Limits(points=60, charts=2, samples=1, excerpt=80, config=300, value=40, rows=3, log=300, sources=2),
)
"""From full to frugal: the first level whose page is small enough is written."""


def mappings(value: Any) -> list[Mapping[str, Any]]:
    """The mappings in a reported list; a single mapping is a list of one, anything else is none.

    Reports come from stages, also from ones outside Tatara: a page must not fail over an odd one.
    """
    if isinstance(value, Mapping):
        return [value]
    if isinstance(value, list | tuple):
        return [item for item in value if isinstance(item, Mapping)]
    return []


def number(value: Any) -> float | None:
    """A figure, or ``None`` for anything else (and for booleans)."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
        return None
    return float(value)
