"""Distributions of tokens: counted for each document, summed up, and compared."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import numba
import numpy as np
from numpy.typing import NDArray

from tatara.data.document import Document
from tatara.data.quality.config import OutliersConfig
from tatara.data.quality.features import hashed

BITS = 16
BINS = 1 << BITS
_COUNT_BITS = 16
"""An entry is a bin and, below it, how often it occurs."""


def group_of(document: Document, group_by: str) -> str:
    """Name of what a document is compared with."""
    if group_by == "language":
        return document.language or ""
    return document.source.partition("/")[0] if group_by == "source" and "/" in document.source else ""


class TokenCollector:
    """Writes the token counts of one shard's documents; what it holds in memory does not grow with their length."""

    def __init__(self, config: OutliersConfig, path: Path) -> None:
        self.config = config
        self.path = path
        self.rows: list[int] = []
        self.groups: list[int] = []
        self.names: dict[str, int] = {}
        self.sizes: list[NDArray[np.int64]] = []
        path.parent.mkdir(parents=True, exist_ok=True)
        self._partial = path.with_name(f".{path.name}.{uuid4().hex}")
        self._stream = self._partial.open("wb")

    def add(self, documents: Sequence[Document]) -> None:
        """Take a batch."""
        if not documents:
            return
        found, ends = hashed([document.text for document in documents], BITS, 1)
        entries, sizes = _sparse(found, ends, self.config.max_tokens)
        entries.tofile(self._stream)
        self.sizes.append(sizes)
        self.rows += [document.row for document in documents]
        for document in documents:
            self.groups.append(self.names.setdefault(group_of(document, self.config.group_by), len(self.names)))

    def close(self) -> None:
        """Make what was written appear: the entries, then the table that says whose they are."""
        self._stream.close()
        os.replace(self._partial, self.path.with_suffix(".entries"))
        sizes = np.concatenate(self.sizes) if self.sizes else np.empty(0, np.int64)
        table: dict[str, NDArray[Any]] = {
            "rows": np.array(self.rows, np.int64),
            "groups": np.array(self.groups, np.int32),
            "ends": np.cumsum(sizes),
            "names": np.array([name.encode("utf-8", "surrogatepass").hex() for name in self.names], np.str_),
        }
        save(self.path.with_suffix(".npz"), table)


class ShardTokens:
    """The token counts of one shard.

    Attributes:
        rows: Row of each document: ``[documents]``.
        groups: Its group, a place in ``names``: ``[documents]``.
        names: Names of groups.
        tokens: Tokens that were counted: ``[documents]``.
    """

    def __init__(self, path: Path) -> None:
        with np.load(path.with_suffix(".npz")) as table:
            self.rows, self.groups, self._ends = table["rows"], table["groups"], table["ends"]
            self.names = [bytes.fromhex(name).decode("utf-8", "surrogatepass") for name in table["names"].tolist()]
        entries = path.with_suffix(".entries")
        self._entries = np.memmap(entries, np.uint32, "r") if entries.stat().st_size else np.empty(0, np.uint32)
        self.tokens = _tokens(self._entries, self._ends)

    def histograms(self, chosen: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Counts of the tokens of some documents: ``[groups, bins]``."""
        out = np.zeros((len(self.names), BINS), np.int64)
        _sum(self._entries, self._ends, self.groups, chosen, out)
        return out

    def divergences(self, log_shares: NDArray[np.float64]) -> NDArray[np.float64]:
        """Kullback-Leibler divergence of each document from its group, nats: ``[documents]``.

        Args:
            log_shares: Logarithm of the share of each bin: ``[groups, bins]``.
        """
        return np.asarray(_divergences(self._entries, self._ends, self.groups, self.tokens, log_shares))


def log_shares(counts: NDArray[np.int64], smoothing: float) -> NDArray[np.float64]:
    """Logarithms of smoothed shares: ``[..., bins]``."""
    smoothed = counts + smoothing
    return np.asarray(np.log(smoothed / smoothed.sum(axis=-1, keepdims=True)))


def save(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write a ``.npz`` that appears only when it is whole."""
    temporary = path.with_name(f".{uuid4().hex}.npz")
    np.savez(temporary, **arrays)  # type: ignore[arg-type]
    os.replace(temporary, path)


@numba.njit(cache=True, nogil=True)
def _sparse(found, ends, limit):  # type: ignore[no-untyped-def]
    """Entries of all documents in order, and how many each has."""
    out, sizes = np.empty(found.size, np.uint32), np.zeros(ends.size, np.int64)
    counts, count, start = np.zeros(BINS, np.uint32), 0, 0
    for row in range(ends.size):
        last = min(ends[row], start + limit)
        for place in range(start, last):
            counts[found[place]] += 1
        for place in range(start, last):
            if counts[found[place]]:
                out[count] = (np.uint32(found[place]) << np.uint32(_COUNT_BITS)) | counts[found[place]]
                counts[found[place]] = 0
                count += 1
                sizes[row] += 1
        start = ends[row]
    return out[:count], sizes


@numba.njit(cache=True, nogil=True)
def _tokens(entries, ends):  # type: ignore[no-untyped-def]
    out = np.zeros(ends.size, np.int64)
    for row in range(ends.size):
        for place in range(ends[row - 1] if row else 0, ends[row]):
            out[row] += entries[place] & (BINS - 1)
    return out


@numba.njit(cache=True, nogil=True)
def _sum(entries, ends, groups, chosen, out):  # type: ignore[no-untyped-def]
    for row in range(ends.size):
        if chosen[row]:
            for place in range(ends[row - 1] if row else 0, ends[row]):
                out[groups[row], entries[place] >> _COUNT_BITS] += entries[place] & (BINS - 1)


@numba.njit(cache=True, nogil=True)
def _divergences(entries, ends, groups, tokens, logarithms):  # type: ignore[no-untyped-def]
    out = np.zeros(ends.size, np.float64)
    for row in range(ends.size):
        for place in range(ends[row - 1] if row else 0, ends[row]):
            share = (entries[place] & (BINS - 1)) / tokens[row]
            out[row] += share * (np.log(share) - logarithms[groups[row], entries[place] >> _COUNT_BITS])
    return out
