"""Fixed-width records in files, sorted into sections, so that a task reads its sections of many files and no more."""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from numba import njit
from numpy.typing import NDArray

Records = NDArray[np.void]
SECTIONS = 1024
"""Sections of a file of hashed keys: a section is a range of the hash. A tiny corpus reads them all in one task."""
_SECTION_BITS = 10

# A document is (shard, position among the shard's collected documents): ascending in the order of the corpus.
POSITION_BITS = 40
EARLIER = 1 << 23
"""Shards of indexes of earlier runs are numbered from here on."""

KEYED = np.dtype(
    [("high", "<u8"), ("low", "<u8"), ("primary", "<u8"), ("tie", "<u8"), ("node", "<u8"), ("copies", "<u8")]
)
"""A key of 128 bits, of which `high` is spread evenly, and the document that has it, with its rank."""
EDGE = np.dtype([("first", "<u8"), ("second", "<u8")])
"""Two documents that belong together."""
MEMBER = np.dtype([("node", "<u8"), ("kept", "<u8"), ("copies", "<u8")])
"""A document of a cluster, the one that stays for it and, where that is itself, the copies that it gains."""


def node_of(shard: int, positions: NDArray[Any]) -> NDArray[np.uint64]:
    """Documents' numbers in the whole corpus: ``[documents]``."""
    return positions.astype(np.uint64) | np.uint64(shard << POSITION_BITS)


def shard_of(nodes: NDArray[np.uint64]) -> NDArray[np.int64]:
    """The shards that documents are in."""
    return (nodes >> np.uint64(POSITION_BITS)).astype(np.int64)


def position_of(nodes: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Where documents are within their shards' collected documents."""
    return (nodes & np.uint64((1 << POSITION_BITS) - 1)).astype(np.int64)


def section_of(keys: NDArray[np.uint64]) -> NDArray[np.uint16]:
    """The section of evenly spread keys: their highest bits."""
    return (keys >> np.uint64(64 - _SECTION_BITS)).astype(np.uint16)


@njit("Tuple((i8[::1], i8[::1]))(u2[::1], i8)", cache=True, nogil=True)
def _counting_order(sections: NDArray[np.uint16], count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    bounds = np.zeros(count + 1, np.int64)
    for section in sections:
        bounds[section + 1] += 1
    for section in range(count):
        bounds[section + 1] += bounds[section]
    place = bounds.copy()
    order = np.empty(len(sections), np.int64)
    for index in range(len(sections)):
        section = sections[index]
        order[place[section]] = index
        place[section] += 1
    return order, bounds


def remembered(path: Path, find: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What was found and written down before, as JSON; else it is found, and written down."""
    if not path.exists():
        write_atomically(path, json.dumps(find()).encode())
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def write_atomically(path: Path, *parts: Any) -> None:
    """Write a file that appears under its name only when it is whole."""
    temporary = path.with_name(f".{path.name}-{uuid4().hex}")
    with temporary.open("wb") as stream:
        for part in parts:
            if isinstance(part, np.ndarray):
                part.tofile(stream)
            else:
                stream.write(part)
    os.replace(temporary, path)


def write_sections(path: Path, records: Records, sections: NDArray[np.uint16], count: int) -> None:
    """Write records grouped by section; the order within a section stays.

    Args:
        path: The file: ``count + 1`` bounds as int64, then the records.
        records: What to write: ``[records]``.
        sections: Each record's section: ``[records]``.
        count: Number of sections.
    """
    if count == 1:
        write_atomically(path, np.array([0, len(records)], np.int64), np.ascontiguousarray(records))
        return
    order, bounds = _counting_order(np.ascontiguousarray(sections), count)
    write_atomically(path, bounds, records[order])


@dataclass(frozen=True)
class SectionFile:
    """A file of `write_sections`."""

    path: Path
    dtype: np.dtype[Any]
    count: int

    def bounds(self) -> NDArray[np.int64]:
        """Where sections begin, in records: ``[count + 1]``."""
        return np.fromfile(self.path, np.int64, self.count + 1)

    def read(self, first: int, last: int, most: int = 1 << 62) -> Iterator[Records]:
        """Records of sections ``first`` to ``last`` (exclusive), at most so many at a time."""
        with self.path.open("rb") as stream:
            stream.seek(8 * first)
            inside = np.frombuffer(stream.read(8 * (last - first + 1)), np.int64)
            start, end = int(inside[0]), int(inside[-1])
            stream.seek(8 * (self.count + 1) + start * self.dtype.itemsize)
            while start < end:
                size = min(most, end - start)
                yield np.frombuffer(stream.read(size * self.dtype.itemsize), self.dtype)
                start += size


@dataclass
class SectionWriter:
    """Writes batches of records, each batch a file of its own: ``<name>-0000``, ``<name>-0001``, ..."""

    directory: Path
    name: str
    count: int
    files: int = field(default=0, init=False)
    records: int = field(default=0, init=False)

    def write(self, records: Records, sections: NDArray[Any]) -> None:
        """Write a batch; see `write_sections`."""
        path = self.directory / f"{self.name}-{self.files:04d}"
        write_sections(path, records, sections.astype(np.uint16), self.count)
        self.files += 1
        self.records += len(records)


def batches(pieces: Iterator[Records], most: int) -> Iterator[Records]:
    """Join small pieces into batches of about ``most`` records, without holding more than one batch and one piece."""
    held: list[Records] = []
    size = 0
    for piece in pieces:
        if size and size + len(piece) > most:
            yield np.concatenate(held)
            held, size = [], 0
        if len(piece):
            held.append(piece)
            size += len(piece)
    if held:
        yield held[0] if len(held) == 1 else np.concatenate(held)


def record_array(dtype: np.dtype[Any], **columns: Any) -> Records:
    """Records from columns."""
    length = len(next(iter(columns.values())))
    made = np.empty(length, dtype)
    for name, column in columns.items():
        made[name] = column
    return made


def split_evenly(sizes: Sequence[int], limit: int) -> list[tuple[int, int]]:
    """Consecutive runs of items whose sizes add up to at most ``limit`` (a single item may exceed it)."""
    runs: list[tuple[int, int]] = []
    start = total = 0
    for index, size in enumerate(sizes):
        if index > start and total + size > limit:
            runs.append((start, index))
            start, total = index, 0
        total += size
    if len(sizes) > start:
        runs.append((start, len(sizes)))
    return runs
