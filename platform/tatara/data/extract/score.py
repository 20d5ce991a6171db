"""How likely each block is main text: boosted trees over the block, then over what those made of the whole page."""

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from tatara.data.extract.counts import LENGTH
from tatara.data.extract.structure import BLOCK_ELEMENT, ELEMENT, PARENT

_NEIGHBOURS = (-4, -3, -2, -1, 1, 2, 3, 4)
_WINDOWS = (3, 8, 20)
_LEVELS = 5
_FAR = 99
_SURE = 0.6
_CHUNK = 64
CONTEXT_FEATURES = 1 + len(_NEIGHBOURS) + len(_WINDOWS) + 2 * _LEVELS + 7


class Forest(NamedTuple):
    """Regression trees whose sum is a log-odds.

    Attributes:
        roots: Each tree's first node: ``[trees]``.
        feature: What a node asks for: ``[nodes]``.
        threshold: Up to which the left child is next: ``[nodes]``.
        children: Left and right; a leaf is -1 minus its number: ``[nodes, 2]``.
        leaves: Values: ``[leaves]``.
    """

    roots: NDArray[np.int32]
    feature: NDArray[np.int16]
    threshold: NDArray[np.float32]
    children: NDArray[np.int16]
    leaves: NDArray[np.float32]


@njit(cache=True, nogil=True)
def predict(forest: Forest, features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Probabilities: ``[blocks]``."""
    roots, feature, threshold, children, leaves = forest
    total = features.shape[0]
    sums = np.zeros(total, dtype=np.float32)
    for start in range(0, total, _CHUNK):  # what one core's cache holds
        for tree in range(roots.size):
            for block in range(start, min(start + _CHUNK, total)):
                node = np.int64(roots[tree])
                while node >= 0:
                    node = children[node, 0 if features[block, feature[node]] <= threshold[node] else 1]
                sums[block] += leaves[-1 - node]
    return (1.0 / (1.0 + np.exp(-sums))).astype(np.float32)


@njit(cache=True, nogil=True)
def _windows(
    row: NDArray[np.float32], at: int, block: int, lengths: NDArray[np.float64], weighted: NDArray[np.float64]
) -> int:
    """Mean probability around a block, weighted with length; the arguments are cumulative sums."""
    total = lengths.size - 1
    for window in _WINDOWS:
        first, last = max(block - window, 0), min(block + window + 1, total)
        row[at] = (weighted[last] - weighted[first]) / (lengths[last] - lengths[first])
        at += 1
    return at


@njit(cache=True, nogil=True)
def _spread(
    elements: NDArray[np.int32], blocks: NDArray[np.int32], counts: NDArray[np.int64], chances: NDArray[np.float32]
) -> tuple[NDArray[np.float64], int, int]:
    """Sums below each element of length, of length times probability, of that above one half; the best subtree."""
    total = elements.shape[0]
    sums = np.zeros((total, 3), dtype=np.float64)
    last = np.arange(total)
    for block in range(blocks.shape[0]):
        element, length = blocks[block, ELEMENT], counts[block, LENGTH]
        sums[element, 0] += length
        sums[element, 1] += length * chances[block]
        sums[element, 2] += length * (chances[block] - 0.5)
    for element in range(total - 1, 0, -1):
        parent = elements[element, PARENT]
        sums[parent] += sums[element]
        last[parent] = max(last[parent], last[element])
    top = 0
    for element in range(total):
        if sums[element, 2] > sums[top, 2]:
            top = element
    return sums, top, last[top]


@njit(cache=True, nogil=True)
def in_context(
    elements: NDArray[np.int32],
    blocks: NDArray[np.int32],
    counts: NDArray[np.int64],
    features: NDArray[np.float32],
    chances: NDArray[np.float32],
) -> NDArray[np.float32]:
    """The features of the second look: ``[blocks, FEATURES + CONTEXT_FEATURES]``."""
    total, width = features.shape
    wide = np.empty((total, width + CONTEXT_FEATURES), dtype=np.float32)
    wide[:, :width] = features
    sums, top, stop = _spread(elements, blocks, counts, chances)
    lengths, weighted = np.zeros(total + 1), np.zeros(total + 1)
    following = np.full(total + 1, -1, dtype=np.int64)
    best = np.float32(0)
    for block in range(total):
        lengths[block + 1] = lengths[block] + counts[block, LENGTH]
        weighted[block + 1] = weighted[block] + counts[block, LENGTH] * chances[block]
        best = max(best, chances[block])
    for block in range(total - 1, -1, -1):
        following[block] = block if chances[block] > _SURE else following[block + 1]
    previous = -1
    for block in range(total):
        row = wide[block]
        row[width] = chances[block]
        at = width + 1
        for offset in _NEIGHBOURS:
            row[at] = chances[block + offset] if 0 <= block + offset < total else -1.0
            at += 1
        at = _windows(row, at, block, lengths, weighted)
        level = blocks[block, ELEMENT]
        row[at + 2 * _LEVELS] = top <= level <= stop
        for _ in range(_LEVELS):
            row[at] = sums[level, 1] / max(sums[level, 0], 1.0)
            row[at + 1] = sums[level, 1] / max(sums[0, 1], 1.0)
            level = elements[elements[level, PARENT], BLOCK_ELEMENT]
            at += 2
        row[at + 1] = sums[top, 1] / max(sums[top, 0], 1.0)
        row[at + 2] = block - previous if previous >= 0 else _FAR
        row[at + 3] = following[block + 1] - block if following[block + 1] >= 0 else _FAR
        row[at + 4], row[at + 5], row[at + 6] = weighted[block] / max(weighted[total], 1.0), weighted[total], best
        if chances[block] > _SURE:
            previous = block
    return wide
