"""Signatures and band keys of documents, and how a shard keeps them.

The kernel is FastSketchLSH's Fast Similarity Sketch (Dahlgaard, Knudsen and Thorup 2017, arXiv:1704.04370): its
components agree with the probability of the Jaccard similarity, like MinHash's, with less variance for documents of
few shingles, and it takes linear time, not shingles times components. Of the kernels tried (numpy, numba, rensa,
gaoya, datasketch) it is the fastest that keeps MinHash's estimate, and it is fed prehashed shingles without copies.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from tatara.data.dedup.config import FuzzyDedupConfig
from tatara.data.dedup.documents import DocumentCollector
from tatara.data.dedup.lsh import choose_bands
from tatara.data.dedup.records import SECTIONS, Records, SectionWriter, record_array, section_of
from tatara.data.document import Document
from tatara.data.shingles import mix_one, shingle_hashes
from tatara.errors import require

BAND = np.dtype([("key", "<u8"), ("signature", "<u4"), ("position", "<u4")])
"""A band's key, 32 bits of the whole signature's hash, and the document."""
TWIN = np.dtype([("position", "<u4"), ("leader", "<u4")])
"""A document with the same signature as an earlier one of its shard, which alone has band keys."""
_BATCH_CHARACTERS = 1 << 21
# About 100 MB of keys; a shard of more documents has several files.
_PART_DOCUMENTS = 1 << 16


def bands_and_rows(config: FuzzyDedupConfig) -> tuple[int, int]:
    """The bands and rows of a configuration."""
    if config.bands is not None and config.rows is not None:
        return config.bands, config.rows
    return choose_bands(config.threshold, config.permutations, config.false_negative_weight)


@njit("Tuple((u8[:,::1], u2[:,::1], u8[::1]))(u8[:,::1], i8, i8, i8)", cache=True, nogil=True)
def _keys_of(
    sketches: NDArray[np.uint64], permutations: int, bands: int, rows: int
) -> tuple[NDArray[np.uint64], NDArray[np.uint16], NDArray[np.uint64]]:
    count = len(sketches)
    keys = np.empty((count, bands), np.uint64)
    signatures = np.empty((count, permutations), np.uint16)
    whole = np.empty(count, np.uint64)
    prime = np.uint64(0x9E3779B97F4A7C15)
    mixed = np.empty(permutations, np.uint64)
    for index in range(count):
        total = np.uint64(0)
        for place in range(permutations):
            mixed[place] = mix_one(sketches[index, place])
            short = mixed[place] >> np.uint64(48)
            signatures[index, place] = short
            total = mix_one((total ^ short) * prime)
        whole[index] = total
        for band in range(bands):
            # The band's number goes in, so that equal components in different bands do not meet.
            key = np.uint64(band + 1) * prime
            for place in range(band * rows, band * rows + rows):
                key = (key ^ mixed[place]) * prime
                key ^= key >> np.uint64(32)
            keys[index, band] = mix_one(key)
    return keys, signatures, whole


def sign(
    texts: Sequence[str], config: FuzzyDedupConfig
) -> tuple[NDArray[np.uint64], NDArray[np.uint16], NDArray[np.uint64], NDArray[np.bool_]]:
    """Sign texts.

    Returns:
        Band keys ``[texts, bands]``, 16 bits of each component ``[texts, permutations]``, a hash of each signature
        ``[texts]``, and which texts have words at all ``[texts]``.
    """
    library = require("FastSketchLSH", "data")
    bands, rows = bands_and_rows(config)
    hashes, bounds = shingle_hashes(texts, config.ngram)
    # The library makes powers of two only; surplus components are left out.
    sketch = library.FastSimilaritySketch(size=1 << (config.permutations - 1).bit_length(), seed=config.seed)
    worded = np.diff(bounds.astype(np.int64)) > 0
    if not len(hashes):
        full = np.zeros((len(texts), config.permutations), np.uint64)
    else:
        full = np.ascontiguousarray(sketch.batch_csr(hashes, bounds, prehashed=True, num_threads=1), np.uint64)
    return (*_keys_of(full, config.permutations, bands, rows), worded)


class SignatureCollector(DocumentCollector):
    """Collects band keys and signatures; documents with equal signatures have band keys once per part of a shard."""

    def __init__(self, config: FuzzyDedupConfig, directory: Path, shard: int) -> None:
        super().__init__(config, directory, shard)
        self._waiting: list[str] = []
        self._characters = 0
        self._signed: list[tuple[Any, ...]] = []
        self._held = self._written = self._twins = self._bytes = 0
        self._writer: SectionWriter | None = None

    def take(self, documents: Sequence[Document]) -> None:
        """Collect texts, and sign them when there are enough."""
        for document in documents:
            self._waiting.append(document.text)
            self._characters += len(document.text)
            if self._characters > _BATCH_CHARACTERS:
                self._sign()
                if self._held >= _PART_DOCUMENTS:
                    self._flush()

    def _sign(self) -> None:
        self._signed.append(sign(self._waiting, self.config))
        self._held += len(self._waiting)
        self._waiting, self._characters = [], 0

    def _flush(self) -> None:
        """Write band keys in sections, signatures by position, and twins, of what is held."""
        keys, signatures, whole, worded = (np.concatenate(parts) for parts in zip(*self._signed, strict=True))
        positions = np.flatnonzero(worded)
        _, first, inverse = np.unique(whole[positions], return_index=True, return_inverse=True)
        leaders = positions[first][inverse.ravel()]
        twin = leaders != positions
        twins = record_array(TWIN, position=positions[twin], leader=leaders[twin])
        alone = positions[~twin]
        bands = keys.shape[1]
        records = record_array(
            BAND,
            key=keys[alone].ravel(),
            signature=np.repeat((whole[alone] >> np.uint64(32)).astype(np.uint32), bands),
            position=np.repeat((alone + self._written).astype(np.uint32), bands),
        )
        for name in ("position", "leader"):
            twins[name] += np.uint32(self._written)
        self._writer = self._writer or SectionWriter(self.workspace, "bands", SECTIONS)
        self._writer.write(records, section_of(records["key"]))
        for name, rows in {"signatures": signatures, "twins": twins}.items():
            with (self.workspace / name).open("ab") as stream:
                rows.tofile(stream)
        self._twins += len(twins)
        self._bytes += records.nbytes
        self._written += self._held
        self._held, self._signed = 0, []

    def write(self, directory: Path, table: Records) -> dict[str, Any]:
        """Write what is held."""
        self._sign()
        self._flush()
        files = self._writer.files if self._writer else 0
        return {"bands_files": files, "key_bytes": self._bytes, "twins": self._twins}


def leaders_of(directory: Path, count: int, living: NDArray[np.bool_] | None) -> NDArray[np.int64]:
    """For each position of a shard the document that its band keys stand for: ``[count]``.

    That is itself while it lives, else the first of its twins that does; -1 where there is none.
    """
    leaders = np.arange(count)
    if living is None:
        return leaders
    leaders[~living] = -1
    twins = np.fromfile(directory / "twins", TWIN)
    twins = twins[living[twins["position"]] & ~living[twins["leader"]]]
    groups, first = np.unique(twins["leader"], return_index=True)
    leaders[groups] = twins["position"][first]
    return leaders


def twin_edges(directory: Path, leaders: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Living twins and the document that stands for their signature: positions."""
    twins = np.fromfile(directory / "twins", TWIN)
    leading = leaders[twins["leader"]]
    # A twin that lives has a leader that does, if only itself.
    mine = (leaders[twins["position"]] >= 0) & (leading != twins["position"])
    return twins["position"][mine].astype(np.int64), leading[mine]
