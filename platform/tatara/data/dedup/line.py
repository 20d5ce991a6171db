"""Line deduplication: lines that occur in too many places are dropped from the documents."""

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from tatara.data.dedup.documents import Corpus, DocumentCollector, collected_tables, group_shards
from tatara.data.dedup.grouping import Output
from tatara.data.dedup.line_counts import DROPPED, LINE, count_lines
from tatara.data.dedup.lines import hash_lines
from tatara.data.dedup.records import (
    SECTIONS,
    Records,
    SectionWriter,
    position_of,
    record_array,
    remembered,
    section_of,
    shard_of,
    write_atomically,
)
from tatara.data.dedup.stages import read_decision, run_stage, task_directory, tidy
from tatara.data.dedup.verdicts import group_of_shard
from tatara.data.document import Document, Verdict
from tatara.data.shingles import mix
from tatara.data.steps import Collector, FanOut, GlobalStep, ShardRows, Verdicts, serially

_ONE_TASK = 8
_BATCH_CHARACTERS = 1 << 21
_PART_LINES = 1 << 21
_BYTES_PER_DOCUMENT = 256


class _LineCollector(DocumentCollector):
    """Collects a hash of every line."""

    def __init__(self, config: Any, directory: Path, shard: int) -> None:
        super().__init__(config, directory, shard)
        self._waiting: list[str] = []
        self._size = 0
        self._documents = self._held = 0
        self._lines: list[Records] = []
        self._writer: SectionWriter | None = None

    def take(self, documents: Sequence[Document]) -> None:
        for document in documents:
            self._waiting.append(document.text)
            self._size += len(document.text)
            if self._size > _BATCH_CHARACTERS:
                self._hash()

    def _hash(self) -> None:
        hashes, characters, bounds = hash_lines(self._waiting)
        text = np.repeat(np.arange(len(self._waiting)), np.diff(bounds))
        lengths = np.bincount(text, weights=characters, minlength=len(self._waiting)).astype(np.int64)
        with (self.workspace / "lengths").open("ab") as stream:
            lengths.tofile(stream)
        counted = (hashes != 0) & (characters >= self.config.min_line_characters)
        ids = self.ids[self._documents : self._documents + len(self._waiting)]
        buckets = np.array([xxhash.xxh3_64_intdigest(name) >> 32 for name in ids], np.uint32)
        self._lines.append(
            record_array(
                LINE,
                hash=hashes[counted],
                bucket=buckets[text[counted]],
                characters=characters[counted],
                position=text[counted] + self._documents,
            )
        )
        self._held += len(self._lines[-1])
        self._documents += len(self._waiting)
        self._waiting, self._size = [], 0
        if self._held > _PART_LINES:
            self._flush()

    def _flush(self) -> None:
        lines = np.concatenate(self._lines)
        self._writer = self._writer or SectionWriter(self.workspace, "lines", SECTIONS)
        self._writer.write(lines, section_of(lines["hash"]))
        self._held, self._lines = 0, []

    def write(self, directory: Path, table: Records) -> dict[str, Any]:
        self._hash()
        if self._lines:
            self._flush()
        files, records = (self._writer.files, self._writer.records) if self._writer else (0, 0)
        return {"lines_files": files, "key_bytes": records * LINE.itemsize}


class LineDedup(GlobalStep):
    """Drops lines that occur more than ``max_count`` times in a bucket of documents."""

    def collector(self, shard: int) -> Collector:
        """Hashes of lines."""
        return _LineCollector(self.config, self.directory, shard)

    def decide(
        self,
        shards: Sequence[ShardRows],
        alive: Callable[[int], NDArray[np.bool_]],
        fan_out: FanOut,
        memory: int,
    ) -> dict[str, Any]:
        """Count lines and say which go from which document; see `GlobalStep.decide`."""
        decision = self.directory / "decision.json"
        if decision.exists():
            found: dict[str, Any] = json.loads(decision.read_text())
            return dict(found["figures"])
        grouped = remembered(self.directory / "groups.json", lambda: self._group(shards, alive, memory))
        numbers = tuple(shard.index for shard in shards)
        corpus = Corpus(self.directory, numbers, (), tuple(grouped["starts"]), alive)
        buckets = max(1, -(-grouped["documents"] // self.config.bucket_documents))
        if grouped["whole"]:
            figures = {}
            for result in fan_out(partial(_decide_here, self, corpus, buckets, memory), [{"task": 0}]):
                figures = result
        else:
            figures = self.work(corpus, buckets, memory, fan_out)
        figures = {"documents": grouped["documents"], "buckets": buckets, **figures}
        rows = {str(shard.index): shard.rows for shard in shards}
        known = {"figures": figures, "starts": grouped["starts"], "rows": rows}
        write_atomically(decision, json.dumps(known).encode())
        tidy(self.directory)
        return figures

    def _group(
        self, shards: Sequence[ShardRows], alive: Callable[[int], NDArray[np.bool_]], memory: int
    ) -> dict[str, Any]:
        tables = collected_tables(self.directory, self.config.step, shards)
        sizes = [_BYTES_PER_DOCUMENT * len(table) for table in tables]
        whole = (sum(sizes) + sum(table.meta["key_bytes"] for table in tables)) * _ONE_TASK <= memory
        documents = 0
        for shard, table in zip(shards, tables, strict=True):
            rows = alive(shard.index)
            documents += len(table) if rows.all() else int(rows[table.documents["row"]].sum())
        numbers = [shard.index for shard in shards]
        starts = group_shards(numbers, sizes, sum(sizes) if whole else max(memory // 4, 1))
        return {"starts": starts, "whole": whole, "documents": documents}

    def work(self, corpus: Corpus, buckets: int, memory: int, fan_out: FanOut) -> dict[str, Any]:
        """Count lines, then gather by shard what goes."""
        dropped, frequent = count_lines(corpus, self.config, buckets, self.directory / "counted", memory, fan_out)
        groups = [{"group": group} for group in range(corpus.groups)]
        task = partial(_gather_task, dropped, corpus, self.config.min_characters)
        results = run_stage(self.directory / "dropped", task, groups, fan_out)
        total = {name: sum(result[name] for result in results) for name in ("lines", "changed", "removed")}
        return {"frequent_lines": frequent, **total}

    def _shard(self, shard: int) -> tuple[dict[str, NDArray[Any]], int]:
        decision = read_decision(self.directory, self.config.step)
        group = group_of_shard(decision["starts"], shard)
        found = task_directory(self.directory / "dropped", group) / f"{shard:06d}.npz"
        return dict(np.load(found)) if found.exists() else {}, decision["rows"][str(shard)]

    def removed(self, shard: int) -> NDArray[np.bool_]:
        """Documents of which too little is left: ``[rows]``."""
        found, rows = self._shard(shard)
        gone = np.zeros(rows, bool)
        if found:
            gone[found["documents"][found["left"] < self.config.min_characters]] = True
        return gone

    def judge(self, shard: int) -> Callable[[Sequence[Document]], Verdicts]:
        """Drop lines, and documents of which too little is left."""
        found, _ = self._shard(shard)
        if not found:
            return lambda documents: [None] * len(documents)
        place = {row: index for index, row in enumerate(found["documents"].tolist())}
        bounds, hashes, left = found["bounds"].tolist(), found["hashes"], found["left"].tolist()
        least, name = self.config.min_characters, self.config.step

        def verdicts(documents: Sequence[Document]) -> Verdicts:
            found: Verdicts = [None] * len(documents)
            changed, theirs = [], []
            for number, document in enumerate(documents):
                index = place.get(document.row)
                if index is None:
                    continue
                if left[index] < least:
                    found[number] = Verdict(f"{name}.min_characters", float(left[index]), float(least))
                    continue
                changed.append(document)
                theirs.append(hashes[bounds[index] : bounds[index + 1]])
            if changed:
                _drop_lines(changed, theirs, self.config.min_line_characters, f"{name}.lines")
            return found

        return verdicts


def _drop_lines(
    documents: Sequence[Document], hashes: Sequence[NDArray[np.uint64]], min_characters: int, count: str
) -> None:
    """Drop the lines with some hashes, of each document its own."""
    own, characters, bounds = hash_lines([document.text for document in documents])
    # One look-up for all: the number of the document is mixed into the hashes.
    seeds = mix(np.arange(1, len(documents) + 1, dtype=np.uint64))
    wanted = np.concatenate(hashes) ^ np.repeat(seeds, [len(each) for each in hashes])
    gone = np.isin(own ^ np.repeat(seeds, np.diff(bounds)), wanted) & (own != 0) & (characters >= min_characters)
    drops = gone.tolist()
    for document, begin, end in zip(documents, bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        own_drops = drops[begin:end]
        lines = zip(document.text.split("\n"), own_drops, strict=True)
        document.text = "\n".join(line for line, drop in lines if not drop)
        document.counts[count] += sum(own_drops)


def _decide_here(step: LineDedup, corpus: Corpus, buckets: int, memory: int, item: dict[str, Any]) -> dict[str, Any]:
    return step.work(corpus, buckets, memory, serially)


def _gather_task(dropped: Output, corpus: Corpus, least: int, item: dict[str, Any], output: Path) -> dict[str, Any]:
    group = item["group"]
    found = np.concatenate([np.zeros(0, DROPPED), *dropped.read(group, group + 1)])
    found = found[np.lexsort((found["hash"], found["node"]))]
    shards = shard_of(found["node"])
    counts = {"lines": len(found), "changed": 0, "removed": 0}
    for number in np.unique(shards).tolist():
        mine = found[shards == number]
        table = corpus.table(number)
        positions = position_of(mine["node"])
        begins = np.flatnonzero(np.diff(positions, prepend=-1))
        documents = positions[begins]
        lengths = np.fromfile(table.directory / "lengths", np.int64)[documents]
        left = lengths - np.add.reduceat(mine["characters"].astype(np.int64), begins)
        with (output / f"{number:06d}.npz").open("wb") as stream:
            np.savez(
                stream,
                documents=table.documents["row"][documents],
                bounds=np.append(begins, len(mine)),
                hashes=mine["hash"],
                left=left,
            )
        counts["changed"] += len(documents)
        counts["removed"] += int((left < least).sum())
    return counts
