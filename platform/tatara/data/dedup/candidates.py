"""Pairs of documents that share a band."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from tatara.data.dedup.documents import Corpus
from tatara.data.dedup.grouping import FIRST_EARLIER, Output, batch_records, key_files, key_sizes, plan_sections, within
from tatara.data.dedup.records import (
    EDGE,
    Records,
    SectionWriter,
    node_of,
    record_array,
)
from tatara.data.dedup.signatures import BAND, leaders_of
from tatara.data.dedup.stages import run_stage
from tatara.data.shingles import mix
from tatara.data.steps import FanOut

_Placed = tuple[NDArray[np.uint64], NDArray[np.uint32], NDArray[np.uint64]]
ALL_PAIRS = 64
"""Of a band bucket of more different signatures than this not all pairs are compared."""


def find_candidates(corpus: Corpus, directory: Path, memory: int, fan_out: FanOut) -> Output:
    """Pairs that share a band key, in sections by the group of the first: `EDGE`, some more than once."""
    most = batch_records(BAND, memory) // 2
    tasks = plan_sections(key_sizes(corpus, "bands", BAND), most)
    results = run_stage(directory, partial(_candidates_task, corpus, most), tasks, fan_out)
    return Output.of(directory, "pairs", EDGE, corpus.groups, results)


def _candidates_task(corpus: Corpus, most: int, item: dict[str, Any], output: Path) -> dict[str, Any]:
    pieces = list(_placed(corpus, item))
    writer = SectionWriter(output, "pairs", corpus.groups)
    key, signature, node = (np.concatenate(columns) for columns in zip(*pieces, strict=True))
    pieces.clear()
    for pairs in bucket_pairs(key, signature, node, most):
        writer.write(pairs, corpus.group_of(pairs["first"]))
    return {"pairs": writer.files, "records": writer.records}


def _placed(corpus: Corpus, item: dict[str, Any]) -> Iterator[_Placed]:
    """Keys, signatures and documents of a task's band keys whose documents are still there."""
    yield np.zeros(0, np.uint64), np.zeros(0, np.uint32), np.zeros(0, np.uint64)
    for number, file in key_files(corpus, "bands", BAND):
        leaders: NDArray[np.int64] | None = None
        for piece in file.read(item["first"], item["last"]):
            if item["parts"] > 1:
                piece = piece[within(piece["key"], item["part"], item["parts"])]
            if leaders is None:
                table = corpus.table(number)
                leaders = leaders_of(table.directory, len(table), corpus.living(number, table))
            positions = leaders[piece["position"]]
            here = positions >= 0
            if not here.all():
                piece, positions = piece[here], positions[here]
            yield piece["key"].copy(), piece["signature"].copy(), node_of(number, positions)


def bucket_pairs(
    key: NDArray[np.uint64], signature: NDArray[np.uint32], node: NDArray[np.uint64], most: int
) -> Iterator[Records]:
    """Pairs of documents with the same key, about ``most`` at a time.

    Documents with the same signature are a chain. Of the different signatures of a bucket all pairs are made up to
    `ALL_PAIRS`; of more, each with the first ones and with its neighbour in the order of signatures, so that a
    bucket takes linear time however large, and the outcome does not depend on how documents are spread over shards.
    Documents with equal signatures were joined before, per part of a shard; a task holds one key's other documents
    whole, about 60 bytes each.
    """
    # Most keys occur once: they go before anything is sorted.
    shared = np.flatnonzero(_maybe_repeated(key))
    shared = shared[np.argsort(key[shared])]
    key, signature, node = key[shared], signature[shared], node[shared]
    large = _sort_buckets(key, signature, node)
    if len(large):
        order = large[np.lexsort((node[large], signature[large], key[large]))]
        key[large], signature[large], node[large] = key[order], signature[order], node[order]
    start = 0
    room = max(most, ALL_PAIRS * ALL_PAIRS)
    while start < len(key):
        first, second, start = _pairs_from(key, signature, node, start, room)
        swapped = first > second
        first[swapped], second[swapped] = second[swapped], first[swapped]
        fresh = first < FIRST_EARLIER
        yield unique_pairs(first[fresh], second[fresh])


@njit("b1[::1](u8[::1])", cache=True, nogil=True)
def _maybe_repeated(keys: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Which keys may occur more than once: all that do, and a few that do not."""
    size = 1024
    while size < 4 * len(keys):
        size *= 2
    mask = np.uint64(size - 1)
    counts = np.zeros(size, np.uint8)
    for key in keys:
        slot = key & mask
        if counts[slot] < 2:
            counts[slot] += 1
    found = np.empty(len(keys), np.bool_)
    for index in range(len(keys)):
        found[index] = counts[keys[index] & mask] > 1
    return found


@njit("i8[::1](u8[::1], u4[::1], u8[::1])", cache=True, nogil=True)
def _sort_buckets(
    key: NDArray[np.uint64], signature: NDArray[np.uint32], node: NDArray[np.uint64]
) -> NDArray[np.int64]:
    """Sort small buckets by signature and document, in place; where the entries of large ones are."""
    large = np.empty(len(key), np.int64)
    count = begin = 0
    while begin < len(key):
        end = begin
        while end < len(key) and key[end] == key[begin]:
            end += 1
        for index in range(begin + 1, end):
            if end - begin > ALL_PAIRS:
                break
            here, document, place = signature[index], node[index], index
            while place > begin and (
                signature[place - 1] > here or (signature[place - 1] == here and node[place - 1] > document)
            ):
                signature[place], node[place] = signature[place - 1], node[place - 1]
                place -= 1
            signature[place], node[place] = here, document
        if end - begin > ALL_PAIRS:
            for index in range(begin, end):
                large[count] = index
                count += 1
        begin = end
    return large[:count]


@njit("Tuple((u8[::1], u8[::1], i8))(u8[::1], u4[::1], u8[::1], i8, i8)", cache=True, nogil=True)
def _pairs_from(
    key: NDArray[np.uint64], signature: NDArray[np.uint32], node: NDArray[np.uint64], start: int, room: int
) -> tuple[NDArray[np.uint64], NDArray[np.uint64], int]:
    """Pairs of the buckets from ``start`` on while there is room, and where to go on.

    A bucket larger than the room takes one turn all the same: its pairs are linear in its size.
    """
    capacity, place = room, start
    first, second = np.empty(capacity, np.uint64), np.empty(capacity, np.uint64)
    made = 0
    while place < len(key):
        end = place
        while end < len(key) and key[end] == key[place]:
            end += 1
        size = end - place
        needed = size * (size - 1) // 2 if size <= ALL_PAIRS else 4 * size + ALL_PAIRS * ALL_PAIRS // 2
        if made + needed > capacity:
            if made:
                break
            capacity = needed
            first, second = np.empty(capacity, np.uint64), np.empty(capacity, np.uint64)
        heads = np.empty(size, np.uint64)
        different = 0
        for index in range(place, end):
            if index > place and signature[index] == signature[index - 1]:
                first[made], second[made] = heads[different - 1], node[index]
                made += 1
                continue
            heads[different] = node[index]
            different += 1
        for a in range(different):
            near = different if different <= ALL_PAIRS else (different if a < 2 else min(a + 2, different))
            for b in range(a + 1, near):
                first[made], second[made] = heads[a], heads[b]
                made += 1
        place = end
    return first[:made], second[:made], place


def unique_pairs(first: NDArray[np.uint64], second: NDArray[np.uint64]) -> Records:
    """Every pair once: `EDGE`."""
    order = np.argsort(mix(first) + second)
    first, second = first[order], second[order]
    if len(first):
        new = np.concatenate(([True], (first[1:] != first[:-1]) | (second[1:] != second[:-1])))
        first, second = first[new], second[new]
    return record_array(EDGE, first=first, second=second)
