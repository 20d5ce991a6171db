"""What mixing needs to know of each document, kept in a file per shard, and sums over those files."""

from collections.abc import Callable, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tatara import storage
from tatara.data.document import Document
from tatara.data.steps import FanOut

_KEYS = np.dtype([("row", "<i8"), ("bytes", "<i8"), ("tokens", "<i8"), ("hash", "<u4"), ("source", "<i4")])
SPAN = 1 << 32
"""Hashes are below this."""
# Bits of the hash that each look at the keys narrows a threshold down by.
_DIGITS = (12, 12, 8)


class KeyCollector:
    """Writes what the decision needs of each document: row, bytes, tokens, a hash of the id, and source."""

    def __init__(
        self,
        seed: int,
        source_of: Callable[[Document], int],
        count: Callable[[Sequence[Document]], list[int]],
        path: Path,
    ) -> None:
        self._source_of, self._count = source_of, count
        self._path = path
        self._keys: list[NDArray[Any]] = [np.zeros(0, _KEYS)]
        self._unmatched = ""
        self._salt = str(seed).encode()

    def add(self, documents: Sequence[Document]) -> None:
        """Take a batch."""
        keys = np.zeros(len(documents), _KEYS)
        keys["row"] = [document.row for document in documents]
        keys["bytes"] = [document.size for document in documents]
        keys["tokens"] = self._count(documents)
        keys["source"] = [self._source_of(document) for document in documents]
        digests = (blake2b(item.id.encode("utf-8", "replace"), digest_size=4, key=self._salt) for item in documents)
        keys["hash"] = np.frombuffer(b"".join(digest.digest() for digest in digests), "<u4")
        self._keys.append(keys)
        lost = np.flatnonzero(keys["source"] < 0)
        if len(lost) and not self._unmatched:
            self._unmatched = documents[int(lost[0])].source

    def close(self) -> None:
        """Write the keys."""
        storage.replace_bytes(self._path.with_suffix(".unmatched"), self._unmatched.encode("utf-8", "replace"))
        partial = self._path.with_suffix(".part.npy")
        with storage.errors_named(str(self._path), "write"):
            np.save(partial, np.concatenate(self._keys))
            partial.replace(self._path)


Rules = tuple[NDArray[np.int64], NDArray[np.int64]]
"""How often all documents of each source occur, and below which hash one occurs once more: two times ``[sources]``."""


def repeats_of(keys: NDArray[Any], rules: Rules) -> NDArray[np.int64]:
    """How often each document occurs: ``[documents]``."""
    whole, thresholds = rules
    source = keys["source"]
    result: NDArray[np.int64] = whole[source] + (keys["hash"] < thresholds[source])
    return result


def _living(item: dict[str, Any], alive: Callable[[int], NDArray[np.bool_]]) -> NDArray[Any]:
    keys: NDArray[Any] = np.load(item["keys"])
    mask = alive(item["shard"])
    found: NDArray[Any] = keys[mask[keys["row"]]]
    return found


class Totals:
    """Documents, bytes and tokens of each source in a shard, without one in the last row: ``[sources + 1, 3]``.

    With rules, of what is left; tokens as often as they occur.
    """

    def __init__(self, alive: Callable[[int], NDArray[np.bool_]], number: int, rules: Rules | None) -> None:
        self._alive, self._number, self._rules = alive, number, rules

    def __call__(self, item: dict[str, Any]) -> NDArray[np.int64]:
        """Do a shard."""
        keys = _living(item, self._alive)
        times = np.ones(len(keys), np.int64) if self._rules is None else repeats_of(keys, self._rules)
        totals = np.zeros((self._number + 1, 3), np.int64)
        for column, values in enumerate((times > 0, keys["bytes"] * (times > 0), keys["tokens"] * times)):
            np.add.at(totals[:, column], keys["source"], values)
        return totals


class _Histogram:
    """Tokens of each source in a shard by some bits of the hash, of documents that share the bits before them."""

    def __init__(
        self, alive: Callable[[int], NDArray[np.bool_]], prefixes: NDArray[np.int64], known: int, digit: int
    ) -> None:
        self._alive, self._prefixes, self._known, self._digit = alive, prefixes, known, digit

    def __call__(self, item: dict[str, Any]) -> NDArray[np.int64]:
        """Do a shard."""
        keys = _living(item, self._alive)
        codes = keys["hash"].astype(np.int64)
        mine = codes >> (32 - self._known) == self._prefixes[keys["source"]]
        keys, codes = keys[mine], codes[mine]
        digit = codes >> (32 - self._known - self._digit) & ((1 << self._digit) - 1)
        found = np.zeros((len(self._prefixes), 1 << self._digit), np.int64)
        np.add.at(found, (keys["source"], digit), keys["tokens"])
        return found


def find_thresholds(
    fan_out: FanOut,
    alive: Callable[[int], NDArray[np.bool_]],
    items: Sequence[dict[str, Any]],
    wanted: NDArray[np.float64],
) -> NDArray[np.int64]:
    """Below which hash a source's documents have the wanted tokens, as nearly as whole documents can: ``[sources]``."""
    prefixes = np.zeros(len(wanted), np.int64)
    left = wanted.copy()
    known = 0
    step = np.zeros(len(wanted), np.int64)
    for digit in _DIGITS:
        found = sum_over(fan_out, _Histogram(alive, prefixes, known, digit), items, (len(wanted), 1 << digit))
        sums = np.cumsum(found, axis=1)
        # The bin in which the wanted number is reached; what lies before it is in.
        chosen = np.minimum((sums < left[:, None]).sum(axis=1), (1 << digit) - 1)
        rows = np.arange(len(wanted))
        inside = found[rows, chosen]
        left -= sums[rows, chosen] - inside
        prefixes = prefixes << digit | chosen
        known += digit
        step = inside
    # One document, or several of one hash, straddles what is wanted: in if that comes nearer.
    thresholds: NDArray[np.int64] = prefixes + (left > step / 2)
    return np.where(wanted > 0, thresholds, 0)


def sum_over(
    fan_out: FanOut, task: Callable[[dict[str, Any]], Any], items: Sequence[dict[str, Any]], shape: tuple[int, int]
) -> NDArray[np.int64]:
    """The sum of what a task finds in each shard."""
    total = np.zeros(shape, np.int64)
    for part in fan_out(task, items):
        total += part
    return total
