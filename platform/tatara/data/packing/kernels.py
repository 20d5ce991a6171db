"""The inner loops of packing, compiled."""

import numpy as np
from numba import njit
from numpy.typing import NDArray


@njit("int64[::1](int64[::1], int64)", cache=True, nogil=True)
def counting_order(keys: NDArray[np.int64], bound: int) -> NDArray[np.int64]:
    """Stable order of keys in ``[0, bound)``, ascending: ``[keys]``, in linear time."""
    starts = np.zeros(bound + 1, np.int64)
    for key in keys:
        starts[key + 1] += 1
    for i in range(bound):
        starts[i + 1] += starts[i]
    order = np.empty(len(keys), np.int64)
    for i in range(len(keys)):
        key = keys[i]
        order[starts[key]] = i
        starts[key] += 1
    return order


@njit("int64(uint8[::1], int64, int64)", cache=True, nogil=True)
def _next_set(tree: NDArray[np.uint8], leaves: int, first: int) -> int:
    """The smallest leaf from ``first`` on that is set, in a binary tree of "something below is set"; -1 for none."""
    node = leaves + first
    if tree[node]:
        return first
    while node > 1:
        if node & 1 == 0 and tree[node + 1]:
            node += 1
            while node < leaves:
                node *= 2
                if not tree[node]:
                    node += 1
            return node - leaves
        node //= 2
    return -1


@njit("void(uint8[::1], int64, int64, uint8)", cache=True, nogil=True)
def _set(tree: NDArray[np.uint8], leaves: int, leaf: int, value: int) -> None:
    node = leaves + leaf
    tree[node] = value
    while node > 1:
        node //= 2
        joined = tree[2 * node] | tree[2 * node + 1]
        if tree[node] == joined:
            return
        tree[node] = joined


@njit("int64[::1](int64[::1], int64)", cache=True, nogil=True)
def best_fit(sizes: NDArray[np.int64], capacity: int) -> NDArray[np.int64]:
    """Bin of each size: the fullest bin with room for it, or a new one.

    Bins are found by their room, an integer up to ``capacity``: a tree over the rooms that occur answers in
    O(log capacity), and bins of equal room form a stack.

    Args:
        sizes: In descending order, each in ``[1, capacity]``: ``[sizes]``.
        capacity: What a bin holds.
    """
    leaves = 1
    while leaves <= capacity:
        leaves *= 2
    tree = np.zeros(2 * leaves, np.uint8)
    top = np.full(capacity + 1, -1, np.int64)
    below = np.empty(len(sizes), np.int64)
    bins = np.empty(len(sizes), np.int64)
    opened = 0
    for i in range(len(sizes)):
        size = sizes[i]
        room = _next_set(tree, leaves, size)
        if room < 0:
            room, chosen = capacity, opened
            opened += 1
        else:
            chosen = top[room]
            top[room] = below[chosen]
            if top[room] < 0:
                _set(tree, leaves, room, 0)
        bins[i] = chosen
        left = room - size
        if left:
            if top[left] < 0:
                _set(tree, leaves, left, 1)
            below[chosen] = top[left]
            top[left] = chosen
    return bins


@njit("Tuple((int64[::1], int64[::1], int64[::1], int64[::1]))(int64[::1], int64[::1], int64)", cache=True, nogil=True)
def cut_stream(
    documents: NDArray[np.int64], pairs: NDArray[np.int64], capacity: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Fill bins with documents one after the other, cutting where a bin is full.

    Args:
        documents: Which document is the next: ``[occurrences]``.
        pairs: Its pairs: ``[occurrences]``.
        capacity: Pairs in a bin.

    Returns:
        Bin, document, offset and pairs of each piece: four times ``[pieces]``.
    """
    total = 0
    count = 0
    for each in pairs:
        if each > 0:
            # The bins that it touches.
            count += (total + each - 1) // capacity - total // capacity + 1
            total += each
    bins, owner = np.empty(count, np.int64), np.empty(count, np.int64)
    offset, length = np.empty(count, np.int64), np.empty(count, np.int64)
    at = 0
    piece = 0
    for i in range(len(pairs)):
        done = 0
        while done < pairs[i]:
            take = min(pairs[i] - done, capacity - at % capacity)
            bins[piece], owner[piece], offset[piece], length[piece] = at // capacity, documents[i], done, take
            at += take
            done += take
            piece += 1
    return bins, owner, offset, length
