"""Within each cluster of k-means: which documents have a preferred one in almost the same direction."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from tatara.data.dedup.documents import Corpus
from tatara.data.dedup.grouping import Output
from tatara.data.dedup.records import MEMBER, Records, SectionFile, SectionWriter, record_array, split_evenly
from tatara.data.dedup.stages import run_stage
from tatara.data.steps import FanOut

_BLOCK = 1024
_RANK_BYTES = 256


def vector_record(width: int) -> np.dtype[Any]:
    """A document of a cluster with its rank and embedding."""
    return np.dtype(
        [
            ("cluster", "<u4"),
            ("node", "<u8"),
            ("primary", "<u8"),
            ("tie", "<u8"),
            ("copies", "<u8"),
            ("vector", "<i2", (width,)),
        ]
    )


def compare_clusters(
    assigned: Output, corpus: Corpus, directory: Path, threshold: float, memory: int, fan_out: FanOut
) -> tuple[Output, dict[str, Any]]:
    """Find documents to drop: in the order of preference, each that is close to one that stays.

    Unlike connected components, no chain of likenesses joins documents that are not alike; what goes is always within
    the threshold of what stays for it (SemDeDup compares with all preferred documents, whether they stay or not).

    Returns:
        Members of the clusters of duplicates; and figures.
    """
    most = max(_BLOCK, memory // _RANK_BYTES)
    items = [{"first": first, "last": last} for first, last in split_evenly(assigned.sizes().tolist(), most)]
    results = run_stage(directory, partial(_compare_task, assigned, corpus, threshold), items, fan_out)
    members = Output.of(directory, "members", MEMBER, corpus.groups, results)
    return members, {"largest_k_means_cluster": max((result["largest"] for result in results), default=0)}


def _compare_task(
    assigned: Output, corpus: Corpus, threshold: float, item: dict[str, Any], output: Path
) -> dict[str, Any]:
    writer = SectionWriter(output, "members", corpus.groups)
    largest = 0
    for section in range(item["first"], item["last"]):
        documents = _Section(assigned, section)
        for places in documents.clusters():
            largest = max(largest, len(places))
            kept = keep_first(len(places), partial(documents.vectors, places), threshold)
            goes = kept != np.arange(len(places))
            gained = np.zeros(len(places), np.uint64)
            np.add.at(gained, kept[goes], documents.ranks["copies"][places[goes]])
            goes[kept[goes]] = True
            if goes.any():
                nodes = documents.ranks["node"][places]
                members = record_array(MEMBER, node=nodes[goes], kept=nodes[kept[goes]], copies=gained[goes])
                writer.write(members, corpus.group_of(members["kept"]))
    return {"members": writer.files, "largest": largest}


class _Section:
    """The documents of some clusters: their ranks in memory, their embeddings read when they are compared."""

    def __init__(self, assigned: Output, section: int) -> None:
        dtype = assigned.dtype
        self._files: list[Records] = []
        self._width = dtype["vector"].shape[0]
        names = [name for name in dtype.names or () if name != "vector"]
        ranks = [np.zeros(0, [(name, dtype[name]) for name in names])]
        for path in assigned.paths():
            bounds = SectionFile(path, dtype, assigned.count).bounds()
            if bounds[section + 1] == bounds[section]:
                continue
            offset = 8 * (assigned.count + 1) + int(bounds[section]) * dtype.itemsize
            found = np.memmap(path, dtype, "r", offset, (int(bounds[section + 1] - bounds[section]),))
            self._files.append(found)
            ranks.append(record_array(ranks[0].dtype, **{name: found[name] for name in names}))
        self._starts = np.cumsum([0, *map(len, self._files)])
        self.ranks = np.concatenate(ranks)

    def clusters(self) -> Iterator[NDArray[np.int64]]:
        """Places of the documents of each cluster, preferred ones first."""
        ranks = self.ranks
        order = np.lexsort((ranks["node"], ranks["tie"], ranks["primary"], ranks["cluster"]))
        begins = np.flatnonzero(np.diff(ranks["cluster"][order].astype(np.int64), prepend=-1))
        yield from np.split(order, begins[1:]) if len(order) else []

    def vectors(self, places: NDArray[np.int64], chosen: NDArray[np.int64]) -> NDArray[np.float64]:
        """Embeddings of some of the documents at some places: ``[chosen, d]``."""
        wanted = places[chosen]
        found = np.empty((len(wanted), self._width), np.float64)
        files = np.searchsorted(self._starts, wanted, "right") - 1
        for index in np.unique(files).tolist():
            mine = files == index
            found[mine] = self._files[index]["vector"][wanted[mine] - self._starts[index]]
        return found


def keep_first(
    count: int, vectors: Callable[[NDArray[np.int64]], NDArray[np.float64]], threshold: float
) -> NDArray[np.int64]:
    """For each vector the first before it that stays and whose cosine is at least a threshold; itself if it stays.

    Vectors are compared in blocks: what is held are two blocks and their products.

    Args:
        count: Number of vectors.
        vectors: Gives some of the vectors, which are in the order of preference: ``[n, d]``.
        threshold: Cosine similarity.
    """
    kept = np.arange(count)
    standing = np.zeros(0, np.int64)
    for start in range(0, count, _BLOCK):
        here = np.arange(start, min(start + _BLOCK, count))
        block = vectors(here)
        lengths = np.sqrt((block * block).sum(axis=1))
        for first in range(0, len(standing), _BLOCK):
            others = standing[first : first + _BLOCK]
            against = vectors(others)
            # Products of integers are exact; one rounding in the comparison, the same wherever it is made.
            close = block @ against.T >= threshold * np.outer(lengths, np.sqrt((against * against).sum(axis=1)))
            hit = close.any(axis=1) & (kept[here] == here)
            kept[here[hit]] = others[close[hit].argmax(axis=1)]
        left = np.flatnonzero(kept[here] == here)
        close = block[left] @ block[left].T >= threshold * np.outer(lengths[left], lengths[left])
        kept[here[left]] = here[left[_keep_in_order(close)]]
        standing = np.concatenate([standing, here[kept[here] == here]])
    return kept


@njit("i8[::1](b1[:,::1])", cache=True, nogil=True)
def _keep_in_order(close: NDArray[np.bool_]) -> NDArray[np.int64]:
    kept = np.arange(len(close))
    for index in range(len(close)):
        for other in range(index):
            if close[index, other] and kept[other] == other:
                kept[index] = other
                break
    return kept
