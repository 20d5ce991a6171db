"""A hash table, growing rows and a heap of pairs, for compiled code."""

import numpy as np
from numba import njit
from numpy.typing import NDArray


@njit("uint64(int64)", cache=True, nogil=True)
def _slot(key: int) -> np.uint64:
    code = np.uint64(key) * np.uint64(0x9E3779B97F4A7C15)
    return code ^ (code >> np.uint64(29))


@njit("int64(int64[:, ::1], int64)", cache=True, nogil=True)
def find(slots: NDArray[np.int64], key: int) -> np.int64:
    """The row of a key, or the free one where it belongs; a row is key and value, and a key is never negative."""
    mask = np.uint64(len(slots) - 1)
    at = _slot(key) & mask
    while slots[at, 0] >= 0 and slots[at, 0] != key:
        at = (at + np.uint64(1)) & mask
    return np.int64(at)


@njit("int64[:, ::1](int64[:, ::1])", cache=True, nogil=True)
def grown(slots: NDArray[np.int64]) -> NDArray[np.int64]:
    """The same hash table with twice the room."""
    larger = np.full((2 * len(slots), 2), -1, np.int64)
    for row in range(len(slots)):
        if slots[row, 0] >= 0:
            larger[find(larger, slots[row, 0])] = slots[row]
    return larger


@njit("int64[:, ::1](int64[:, ::1])", cache=True, nogil=True)
def longer(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """The same rows with as much room again, zeros."""
    more = np.zeros((2 * len(rows), rows.shape[1]), np.int64)
    more[: len(rows)] = rows
    return more


@njit("boolean(int64, int64, int64, int64)", cache=True, nogil=True)
def _before(count: int, key: int, other_count: int, other_key: int) -> bool:
    return count > other_count or (count == other_count and key < other_key)


@njit("void(int64[:, ::1], int64, int64, int64, int64)", cache=True, nogil=True)
def push(heap: NDArray[np.int64], size: int, count: int, key: int, pair: int) -> None:
    """Put (count, key, pair) into a heap of ``size`` entries, the most frequent on top."""
    at = size
    while at > 0:
        parent = (at - 1) // 2
        if not _before(count, key, heap[parent, 0], heap[parent, 1]):
            break
        heap[at] = heap[parent]
        at = parent
    heap[at, 0], heap[at, 1], heap[at, 2] = count, key, pair


@njit("void(int64[:, ::1], int64)", cache=True, nogil=True)
def pop(heap: NDArray[np.int64], size: int) -> None:
    """Take the top off a heap of ``size`` entries."""
    count, key, pair = heap[size - 1, 0], heap[size - 1, 1], heap[size - 1, 2]
    last = size - 1
    at = 0
    while True:
        child = 2 * at + 1
        if child >= last:
            break
        if child + 1 < last and _before(heap[child + 1, 0], heap[child + 1, 1], heap[child, 0], heap[child, 1]):
            child += 1
        if not _before(heap[child, 0], heap[child, 1], count, key):
            break
        heap[at] = heap[child]
        at = child
    heap[at, 0], heap[at, 1], heap[at, 2] = count, key, pair
