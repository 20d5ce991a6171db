"""Groups documents by a key of 128 bits, out of core, and chooses which one of each group stays."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from tatara.data.dedup.documents import Corpus, Table
from tatara.data.dedup.records import (
    EARLIER,
    KEYED,
    MEMBER,
    POSITION_BITS,
    SECTIONS,
    Records,
    SectionFile,
    SectionWriter,
    batches,
    node_of,
    position_of,
    record_array,
    split_evenly,
)
from tatara.data.dedup.stages import run_stage, task_directory
from tatara.data.steps import FanOut

_SUMMARY = np.dtype([*KEYED.descr, ("count", "<u8"), ("fresh", "<u8")])
FIRST_EARLIER = np.uint64(EARLIER << POSITION_BITS)
_OVERHEAD = 8
"""Bytes that a task holds per byte of records that it reads: copies, orders, results."""
_SPLITS = 64


@dataclass(frozen=True)
class Output:
    """The sectioned files of a finished pass."""

    directory: Path
    name: str
    dtype: np.dtype[Any]
    count: int
    files: tuple[int, ...]

    @classmethod
    def of(cls, directory: Path, name: str, dtype: np.dtype[Any], count: int, results: Sequence[dict[str, Any]]) -> Any:
        """What the tasks of a pass wrote with a `SectionWriter`, whose ``files`` they returned under its name."""
        return cls(directory, name, dtype, count, tuple(result[name] for result in results))

    def paths(self) -> list[Path]:
        """All files."""
        return [
            task_directory(self.directory, task) / f"{self.name}-{index:04d}"
            for task, files in enumerate(self.files)
            for index in range(files)
        ]

    def read(self, first: int, last: int, most: int = 1 << 62) -> Iterator[Records]:
        """Records of some sections, from all files."""
        for path in self.paths():
            yield from SectionFile(path, self.dtype, self.count).read(first, last, most)

    def sizes(self) -> NDArray[np.int64]:
        """Records of each section: ``[count]``."""
        total = np.zeros(self.count, np.int64)
        for path in self.paths():
            total += np.diff(SectionFile(path, self.dtype, self.count).bounds())
        return total


def batch_records(dtype: np.dtype[Any], memory: int) -> int:
    """How many records a task may hold at once."""
    return max(64, memory // (dtype.itemsize * _OVERHEAD))


def plan_sections(sizes: NDArray[np.int64], most: int) -> list[dict[str, int]]:
    """Tasks over sections of keys, of at most about ``most`` records each; a larger section is split by key."""
    tasks = []
    for first, last in split_evenly(sizes.tolist(), most):
        size = int(sizes[first:last].sum())
        if not size:
            continue
        parts = min(-(-size // most), _SPLITS) if last == first + 1 else 1
        tasks += [{"first": first, "last": last, "part": part, "parts": parts} for part in range(parts)]
    return tasks


def within(keys: NDArray[np.uint64], part: int, parts: int) -> NDArray[np.bool_]:
    """Which keys belong to a part of their section."""
    below = (keys << np.uint64(10)) >> np.uint64(32)
    return (below * np.uint64(parts)) >> np.uint64(32) == np.uint64(part)


def shard_files(table: Table, name: str, dtype: np.dtype[Any]) -> list[SectionFile]:
    """The files of keys of one shard."""
    files = int(table.meta[f"{name}_files"])
    return [SectionFile(table.directory / f"{name}-{index:04d}", dtype, SECTIONS) for index in range(files)]


def key_files(corpus: Corpus, name: str, dtype: np.dtype[Any]) -> list[tuple[int, SectionFile]]:
    """The files of keys that collectors wrote, by shard."""
    return [(number, file) for number in corpus.numbers for file in shard_files(corpus.table(number), name, dtype)]


def key_sizes(corpus: Corpus, name: str, dtype: np.dtype[Any]) -> NDArray[np.int64]:
    """Collected keys per section."""
    total = np.zeros(SECTIONS, np.int64)
    for _, file in key_files(corpus, name, dtype):
        total += np.diff(file.bounds())
    return total


def living_keys(corpus: Corpus, task: dict[str, int], most: int) -> Iterator[Records]:
    """A task's keys of documents that are still there, shard by shard, with the numbers of their documents."""
    for number, file in key_files(corpus, "keys", KEYED):
        living: NDArray[np.bool_] | None = None
        known = False
        for piece in file.read(task["first"], task["last"], most):
            if not known:
                living, known = corpus.living(number), True
            positions = position_of(piece["node"])
            records = piece.copy()
            records["node"] = node_of(number, positions)
            yield records if living is None else records[living[positions]]


def choose_collected(corpus: Corpus, directory: Path, memory: int, fan_out: FanOut) -> Output:
    """Group the collected keys; see `choose`."""
    most = batch_records(KEYED, memory)
    tasks = plan_sections(key_sizes(corpus, "keys", KEYED), most)
    results = run_stage(directory, partial(_choose_task, corpus, living_keys, most), tasks, fan_out)
    return Output.of(directory, "members", MEMBER, corpus.groups, results)


def choose_written(written: Output, corpus: Corpus, directory: Path, memory: int, fan_out: FanOut) -> Output:
    """Group the keys that a pass wrote; see `choose`."""
    most = batch_records(KEYED, memory)
    tasks = plan_sections(written.sizes(), most)
    results = run_stage(directory, partial(_choose_task, corpus, partial(_read_written, written), most), tasks, fan_out)
    return Output.of(directory, "members", MEMBER, corpus.groups, results)


def _read_written(written: Output, corpus: Corpus, task: dict[str, int], most: int) -> Iterator[Records]:
    return written.read(task["first"], task["last"], most)


def _choose_task(
    corpus: Corpus,
    read: Callable[[Corpus, dict[str, int], int], Iterator[Records]],
    most: int,
    item: dict[str, Any],
    output: Path,
) -> dict[str, Any]:
    def pieces() -> Iterator[Records]:
        for piece in read(corpus, item, most):
            yield piece if item["parts"] == 1 else piece[within(piece["high"], item["part"], item["parts"])]

    writer = SectionWriter(output, "members", corpus.groups)
    for members in choose(pieces, most):
        writer.write(members, corpus.group_of(members["kept"]))
    return {"members": writer.files, "records": writer.records}


def choose(pieces: Callable[[], Iterator[Records]], most: int) -> Iterator[Records]:
    """Choose which document of each group stays: one of an earlier run, else the one that ranks best.

    The keys are read twice, so that what is held is one record per different key, however many documents share one.

    Args:
        pieces: Gives the keys (`KEYED`), as often as it is called.
        most: Records to hold at once.

    Yields:
        The documents of groups of more than one, but for those of earlier runs: `MEMBER`.
    """
    table = np.zeros(0, _SUMMARY)
    only: Records | None = None
    for index, batch in enumerate(batches(pieces(), most)):
        only = batch if index == 0 else None
        table = _reduce(np.concatenate([table, _reduce(_summary(batch))])) if index else _reduce(_summary(batch))
    table = table[(table["count"] > 1) & (table["fresh"] > 0)]
    if not len(table):
        return
    high, low = np.ascontiguousarray(table["high"]), np.ascontiguousarray(table["low"])
    for batch in [only] if only is not None else batches(pieces(), most):
        found = _find(high, low, np.ascontiguousarray(batch["high"]), np.ascontiguousarray(batch["low"]))
        mine = (found >= 0) & (batch["node"] < FIRST_EARLIER)
        records, group = batch[mine], table[found[mine]]
        stays = records["node"] == group["node"]
        gained = np.where(stays, group["copies"] - records["copies"], np.uint64(0))
        if len(records):
            yield record_array(MEMBER, node=records["node"], kept=group["node"], copies=gained)


def _summary(records: Records) -> Records:
    made = np.empty(len(records), _SUMMARY)
    for name in KEYED.names or ():
        made[name] = records[name]
    made["count"] = 1
    made["fresh"] = records["node"] < FIRST_EARLIER
    made["copies"] *= made["fresh"]
    return made


def _reduce(records: Records) -> Records:
    """One record per key, sorted by key: the best document's, with counts added up."""
    if not len(records):
        return records
    order = np.argsort(records["high"])
    high = records["high"][order]
    fresh_run = np.concatenate(([True], high[1:] != high[:-1]))
    alone = fresh_run & np.append(fresh_run[1:], True)
    if alone.all():
        return records[order]
    several = records[order[~alone]]
    old = several["node"] < FIRST_EARLIER
    best = np.lexsort((several["node"], several["tie"], several["primary"], old, several["low"], several["high"]))
    several = several[best]
    starts = np.flatnonzero(
        np.concatenate(
            ([True], (several["high"][1:] != several["high"][:-1]) | (several["low"][1:] != several["low"][:-1]))
        )
    )
    reduced = several[starts]
    for name in ("count", "fresh", "copies"):
        reduced[name] = np.add.reduceat(several[name], starts)
    joined = np.concatenate([records[order[alone]], reduced])
    return joined[np.lexsort((joined["low"], joined["high"]))]


@njit("i8[::1](u8[::1], u8[::1], u8[::1], u8[::1])", cache=True, nogil=True)
def _find(
    table_high: NDArray[np.uint64], table_low: NDArray[np.uint64], high: NDArray[np.uint64], low: NDArray[np.uint64]
) -> NDArray[np.int64]:
    """Where keys are in a sorted table; -1 where they are not."""
    found = np.full(len(high), -1, np.int64)
    for index in range(len(high)):
        begin, end = 0, len(table_high)
        while begin < end:
            middle = (begin + end) // 2
            if table_high[middle] < high[index] or (
                table_high[middle] == high[index] and table_low[middle] < low[index]
            ):
                begin = middle + 1
            else:
                end = middle
        if begin < len(table_high) and table_high[begin] == high[index] and table_low[begin] == low[index]:
            found[index] = begin
    return found
