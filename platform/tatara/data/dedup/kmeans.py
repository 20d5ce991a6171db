"""Spherical k-means on exact numbers: the outcome does not depend on the order or grouping of the vectors."""

import numpy as np
from numpy.typing import NDArray

_BLOCK = 8192
_SCALE = 32767


def unit(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Vectors scaled so that their length is about 2^15 and rounded to integers: ``[vectors, d]``."""
    length = np.sqrt((vectors * vectors).sum(axis=1, keepdims=True))
    return np.rint(vectors / np.where(length > 0, length, 1) * _SCALE)


def nearest(vectors: NDArray[np.int16], centroids: NDArray[np.float64]) -> NDArray[np.int64]:
    """The centroid with the largest cosine for each vector, the first of equals: ``[vectors]``."""
    found = np.empty(len(vectors), np.int64)
    for start in range(0, len(vectors), _BLOCK):
        # Products of integers below 2^15 add up exactly in double precision for up to 2^23 dimensions.
        block = vectors[start : start + _BLOCK].astype(np.float64)
        found[start : start + _BLOCK] = (block @ centroids.T).argmax(axis=1)
    return found


def fit(vectors: NDArray[np.int16], clusters: int, iterations: int, seed: int) -> NDArray[np.float64]:
    """Centroids by Lloyd's iterations from vectors drawn at random; a cluster that runs empty keeps its centroid.

    Args:
        vectors: The sample, in an order that is always the same: ``[vectors, d]``.
        clusters: How many centroids, at most as many as vectors.
        iterations: At most so many.
        seed: Of the first centroids.

    Returns:
        Integers as floats: ``[clusters, d]``.
    """
    first = np.random.default_rng(seed).permutation(len(vectors))[:clusters]
    exact = unit(vectors.astype(np.float64))
    centroids = exact[np.sort(first)]
    before: NDArray[np.int64] | None = None
    for _ in range(iterations):
        members = nearest(vectors, centroids)
        if before is not None and np.array_equal(members, before):
            break
        before = members
        order = np.argsort(members, kind="stable")
        found, starts = np.unique(members[order], return_index=True)
        centroids[found] = unit(np.add.reduceat(exact[order], starts))
    return centroids
