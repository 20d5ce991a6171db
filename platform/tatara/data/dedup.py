"""Exact and fuzzy deduplication: signatures per shard, then clusters over all shards.

What moves between tasks is per document: two hashes, band keys and a short signature; never text. The result does not
depend on how documents were spread over shards.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from tatara.data.curate import DedupConfig
from tatara.data.shingles import mix, normalise, shingle_hashes
from tatara.errors import require

EXACT, FUZZY = "dedup.exact", "dedup.fuzzy"
# Of a band bucket larger than this, not all pairs are compared: each with the bucket's first and with its neighbour.
_ALL_PAIRS = 64
_PAIRS_AT_ONCE = 200_000


@dataclass(frozen=True)
class Keys:
    """What deduplication knows of a shard's documents, row by row.

    Attributes:
        text_hash: Hash of the normalised text, two words: ``[documents, 2]``.
        bands: Band keys: ``[documents, bands]``.
        signature: 16 bits of each MinHash component: ``[documents, permutations]``.
        length: Length of the text, characters: ``[documents]``.
        has_shingles: False for documents without a single word, which are never near-duplicates: ``[documents]``.
    """

    text_hash: NDArray[np.uint64]
    bands: NDArray[np.uint64]
    signature: NDArray[np.uint16]
    length: NDArray[np.int64]
    has_shingles: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.length)


@dataclass(frozen=True)
class Clusters:
    """Which documents are copies of which.

    Attributes:
        kept: Index of the representative that stands for each document; its own for what is kept: ``[documents]``.
        fuzzy: True where a document fell to fuzzy, not exact, deduplication: ``[documents]``.
        similarity: Estimated Jaccard similarity to the representative; 1 for exact copies: ``[documents]``.
    """

    kept: NDArray[np.int64]
    fuzzy: NDArray[np.bool_]
    similarity: NDArray[np.float32]


def make_keys(texts: Sequence[str], config: DedupConfig) -> Keys:
    """Sign documents.

    Signatures are Fast Similarity Sketches (Dahlgaard, Knudsen and Thorup 2017, arXiv:1704.04370), whose components
    agree with the probability of the Jaccard similarity, like MinHash's, with less variance for short documents.
    """
    library = require("FastSketchLSH", "data")
    normal = [normalise(text) for text in texts]
    digests = b"".join(blake2b(text.encode("utf-8", errors="replace"), digest_size=16).digest() for text in normal)
    hashes, bounds = shingle_hashes(normal, config.ngram)
    # The library makes powers of two only; surplus components are left out.
    sketch = library.FastSimilaritySketch(size=1 << (config.permutations - 1).bit_length(), seed=config.seed)
    if len(texts):
        full = sketch.batch_csr(hashes, bounds, prehashed=True, num_threads=1)[:, : config.permutations]
    else:
        full = np.zeros((0, config.permutations), np.uint64)
    full = mix(np.ascontiguousarray(full))
    return Keys(
        text_hash=np.frombuffer(digests, np.uint64).reshape(-1, 2),
        bands=_band_keys(full, config),
        signature=(full >> np.uint64(48)).astype(np.uint16),
        length=np.array([len(text) for text in texts], np.int64),
        has_shingles=np.diff(bounds.astype(np.int64)) > 0,
    )


def _band_keys(signature: NDArray[np.uint64], config: DedupConfig) -> NDArray[np.uint64]:
    grouped = signature.reshape(len(signature), config.bands, config.rows)
    keys = np.zeros((len(signature), config.bands), np.uint64)
    for row in range(config.rows):
        keys = mix(keys * np.uint64(0x9E3779B97F4A7C15) + grouped[:, :, row])
    return keys


def concatenate(parts: Sequence[Keys]) -> Keys:
    """The keys of several shards as one."""
    return Keys(
        np.concatenate([part.text_hash for part in parts]),
        np.concatenate([part.bands for part in parts]),
        np.concatenate([part.signature for part in parts]),
        np.concatenate([part.length for part in parts]),
        np.concatenate([part.has_shingles for part in parts]),
    )


def find_clusters(keys: Keys, ids: Sequence[str], config: DedupConfig) -> Clusters:
    """Group copies and choose who stays: the longest text, of those the one with the smallest id.

    Exact copies go first; near-duplicates are sought among what is left, so that a million identical documents cost
    no more than one.
    """
    count = len(keys)
    order = np.lexsort(
        (np.arange(count), np.argsort(np.argsort(np.array(ids, dtype=object), kind="stable")), -keys.length)
    )
    rank = np.empty(count, np.int64)
    rank[order] = np.arange(count)
    kept = np.arange(count)
    fuzzy = np.zeros(count, bool)
    similarity = np.ones(count, np.float32)
    if config.exact and count:
        _, inverse = np.unique(keys.text_hash, axis=0, return_inverse=True)
        kept = order[_group_minimum(inverse.ravel(), rank)]
    if config.fuzzy:
        left = order[(kept == np.arange(count))[order] & keys.has_shingles[order]]
        first, second = _confirmed_pairs(keys.bands[left], keys.signature[left], config)
        parent = _components(len(left), first, second)
        representative = left[parent]
        moved = left[representative != left]
        target = representative[representative != left]
        fuzzy[moved] = True
        similarity[moved] = (keys.signature[moved] == keys.signature[target]).mean(axis=1)
        survivor = np.arange(count)
        survivor[left] = representative
        kept = survivor[kept]
    return Clusters(kept, fuzzy, similarity)


def _group_minimum(groups: NDArray[np.intp], values: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each element the smallest value within its group."""
    smallest = np.full(int(groups.max()) + 1, np.iinfo(np.int64).max)
    np.minimum.at(smallest, groups, values)
    return smallest[groups]


def _confirmed_pairs(
    bands: NDArray[np.uint64], signature: NDArray[np.uint16], config: DedupConfig
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs that share a band and whose signatures agree enough; rows are in the order of preference."""
    count = len(bands)
    confirmed: list[NDArray[np.int64]] = [np.zeros(0, np.int64)]
    known = np.zeros(0, np.int64)
    for band in range(bands.shape[1]):
        candidates = np.setdiff1d(_bucket_pairs(bands[:, band]), known, assume_unique=False)
        known = np.union1d(known, candidates)
        for start in range(0, len(candidates), _PAIRS_AT_ONCE):
            codes = candidates[start : start + _PAIRS_AT_ONCE]
            agreement = (signature[codes // count] == signature[codes % count]).mean(axis=1)
            confirmed.append(codes[agreement >= config.threshold - config.margin])
    codes = np.concatenate(confirmed)
    return codes // max(count, 1), codes % max(count, 1)


def _bucket_pairs(keys: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Pairs of rows with the same key, smaller row first, as ``first * rows + second``."""
    count = len(keys)
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    starts = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1]))) if count else np.zeros(0, np.int64)
    sizes = np.diff(np.append(starts, count))
    codes: list[NDArray[np.int64]] = [np.zeros(0, np.int64)]
    for start, size in zip(starts[sizes > 1], sizes[sizes > 1], strict=True):
        rows = order[start : start + size]  # ascending, as the sort is stable
        if size <= _ALL_PAIRS:
            i, j = np.triu_indices(size, 1)
            codes.append(rows[i] * count + rows[j])
        else:
            codes.append(rows[0] * count + rows[1:])
            codes.append(rows[1:-1] * count + rows[2:])
    return np.unique(np.concatenate(codes))


def _components(count: int, first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.int64]:
    """The smallest member of each element's connected component (union-find with path halving)."""
    parent = list(range(count))

    def root(node: int) -> int:
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for a, b in zip(first.tolist(), second.tolist(), strict=True):
        x, y = root(a), root(b)
        if x != y:
            # The smaller row is the preferred document, so that the root is the one to keep.
            parent[max(x, y)] = min(x, y)
    return np.array([root(node) for node in range(count)], np.int64)
