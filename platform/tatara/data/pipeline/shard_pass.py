"""What one task does: take one shard through one pass."""

import functools
import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pyarrow as pa

from tatara import storage
from tatara.data.document import Document, Quarantined, Verdict
from tatara.data.pipeline import rows
from tatara.data.pipeline.funnel import Funnel
from tatara.data.pipeline.kernels import compile_once
from tatara.data.pipeline.planning import PlannedStep, Segment
from tatara.data.pipeline.rows import RowWriter
from tatara.data.read.config import ReadConfig
from tatara.data.read.reader import read_file
from tatara.data.read.shards import Shard
from tatara.data.steps import Selection, Verdicts
from tatara.errors import DataError, TataraError

_BATCH_BYTES = 4_000_000
_BATCH_DOCUMENTS = 20_000
Act = Callable[[Sequence[Document]], Verdicts]


@dataclass(frozen=True)
class Pipeline:
    """What every task has to know.

    Attributes:
        steps: The steps, in order.
        segments: The passes.
        read: How files are read.
        work: Directory of intermediate files, on storage that every node shares.
        samples: Dropped documents kept per reason.
    """

    steps: tuple[PlannedStep, ...]
    segments: tuple[Segment, ...]
    read: ReadConfig
    work: Path
    samples: int

    def files(self, segment: int, shard: int) -> "ShardFiles":
        """What a pass leaves of a shard."""
        return ShardFiles(self.work / f"pass-{segment + 1}", shard)


@dataclass(frozen=True)
class ShardFiles:
    """What a pass leaves of a shard; the summary is written last and says that the others are whole."""

    directory: Path
    shard: int

    def path(self, name: str, suffix: str = "parquet") -> Path:
        """``documents``, ``decisions``, ``records``, ``unreadable`` or ``summary``."""
        return self.directory / f"{name}-{self.shard:05d}.{suffix}"

    @property
    def summary(self) -> Path:
        """Number of documents and `Funnel`."""
        return self.path("summary", "pickle")

    def load(self) -> tuple[int, Funnel]:
        """How many documents the pass left, and its counts."""
        found: tuple[int, Funnel] = pickle.loads(self.summary.read_bytes())
        return found


def run_shard(pipeline: Pipeline, segment: int, shard: Shard) -> dict[str, int]:
    """Take a shard through a pass, unless an earlier run did.

    Returns:
        Documents read and left, bytes of its files, and records set aside as unreadable.
    """
    files = pipeline.files(segment, shard.index)
    if not files.summary.exists():
        storage.make_directory(str(files.directory))
        compile_once([_step(step, pipeline.work) for step in pipeline.segments[segment].rows])
        ShardPass(pipeline, segment, shard).run()
    left, funnel = files.load()
    size = sum(file.size for file in shard.files)
    return {"read": funnel.documents, "left": left, "bytes": size, "unreadable": funnel.unreadable[0]}


class ShardPass:
    """One shard on its way through one pass."""

    def __init__(self, pipeline: Pipeline, segment: int, shard: Shard) -> None:
        self._pipeline = pipeline
        self._segment = pipeline.segments[segment]
        self._shard = shard
        self._files = pipeline.files(segment, shard.index)
        self._funnel = Funnel(pipeline.samples)
        self._decisions: list[dict[str, Any]] = []
        self._records: list[dict[str, Any]] = []
        self._unreadable: list[dict[str, Any]] = []

    def run(self) -> None:
        """Do it, and write the summary."""
        segment = self._segment
        last = not segment.globals
        made = [_step(step, self._pipeline.work) for step in segment.globals]
        collectors = [step.collector(self._shard.index) for step in made]
        schema = rows.DOCUMENTS if last else rows.STORED
        writer = RowWriter(self._files.path("documents"), schema, "zstd" if last else "lz4")
        left = 0
        for batch in self._worked(segment.index):
            for row, document in enumerate(batch, start=left):
                document.row = row
            left += len(batch)
            for step, collector in zip(segment.globals, collectors, strict=True):
                collector.add(selected(step.config.only, batch))
            if last:
                self._check_extracted(batch)
                for document in batch:
                    self._funnel.keeps(document)
            self._drain(batch)
            if segment.stored:
                writer.write(rows.to_table(batch, schema))
        for collector in collectors:
            collector.close()
        writer.close()
        self._write("decisions", self._decisions, rows.DECISIONS)
        self._write("records", self._records, rows.RECORDS)
        self._write("unreadable", self._unreadable, rows.UNREADABLE)
        storage.replace_bytes(self._files.summary, pickle.dumps((left, self._funnel)))

    def _write(self, name: str, found: list[dict[str, Any]], schema: pa.Schema) -> None:
        writer = RowWriter(self._files.path(name), schema)
        if found:
            writer.write(pa.Table.from_pylist(found, schema))
        writer.close()

    def _worked(self, index: int) -> Iterator[list[Document]]:
        """Batches of documents after the row steps of a pass."""
        segment = self._pipeline.segments[index]
        recording = segment is self._segment
        for batch in self._entering(index, recording):
            for step in segment.rows:
                batch = self._take(step, _step(step, self._pipeline.work).apply, batch, recording)
            if batch:
                yield batch

    def _entering(self, index: int, recording: bool) -> Iterator[list[Document]]:
        """Batches of documents at the start of a pass, with the verdicts of the global steps before it handed down."""
        if index == 0:
            yield from self._read(recording)
            return
        before = self._pipeline.segments[index - 1]
        path = self._pipeline.files(before.index, self._shard.index).path("documents")
        judges = [(step, _step(step, self._pipeline.work).judge(self._shard.index)) for step in before.globals]
        stored: Iterable[list[Document]] = rows.read_batches(path) if path.exists() else ()
        for batch in stored if before.stored else self._again(before.index):
            for step, judge in judges:
                batch = self._take(step, judge, batch, recording)
            yield batch

    def _again(self, index: int) -> Iterator[list[Document]]:
        """The documents that an earlier pass left, by doing it again."""
        row = 0
        for batch in self._worked(index):
            for document in batch:
                document.row = row
                row += 1
                document.counts.clear()
                document.records.clear()
            yield batch
        expected, _ = self._pipeline.files(index, self._shard.index).load()
        if row != expected:
            names = ", ".join(sorted({file.source for file in self._shard.files})[:3])
            raise DataError(f"the corpus changed while it was read: {names} held {expected} documents, now {row}")

    def _read(self, recording: bool) -> Iterator[list[Document]]:
        batch: list[Document] = []
        filled = 0
        for file in self._shard.files:
            if recording:
                self._funnel.raw_bytes += file.size
            for found in read_file(file, self._pipeline.read):
                if isinstance(found, Quarantined):
                    if recording:
                        self._set_aside(found)
                    continue
                batch.append(found)
                size = found.size
                filled += size
                if recording:
                    self._funnel.documents += 1
                    self._funnel.bytes += size
                    if found.encoding != "utf-8":
                        self._funnel.encodings[found.encoding] += 1
                if filled >= _BATCH_BYTES or len(batch) >= _BATCH_DOCUMENTS:
                    yield batch
                    batch, filled = [], 0
        if batch:
            yield batch

    def _take(self, step: PlannedStep, act: Act, batch: list[Document], recording: bool) -> list[Document]:
        """Let a step act on a batch; returns what stays."""
        chosen = selected(step.config.only, batch)
        verdicts = self._act(step, act, chosen, recording)
        gone = {id(document) for document, verdict in zip(chosen, verdicts, strict=True) if verdict is not None}
        if recording:
            for document, verdict in zip(chosen, verdicts, strict=True):
                if isinstance(verdict, Verdict):
                    size = document.size
                    self._funnel.drop(step.position, verdict, document, size)
                    self._decisions.append(rows.decision(document, step.label, verdict, size))
        left = [document for document in batch if id(document) not in gone] if gone else batch
        if recording:
            self._drain([document for document in chosen if id(document) in gone])
            self._funnel.passed(step.position, len(left), sum(document.size for document in left))
        return left

    def _act(
        self, step: PlannedStep, act: Act, chosen: list[Document], recording: bool
    ) -> Sequence[Verdict | Quarantined | None]:
        """Verdicts of a step; a document that it fails on is set aside, never the end of the run."""
        if step.is_global:
            return act(chosen)
        try:
            return act(chosen)
        except (TataraError, MemoryError):
            raise
        except Exception:
            # Which document it was is found by doing one at a time; steps are the same whatever the batch.
            found: list[Verdict | Quarantined | None] = []
            for document in chosen:
                try:
                    found += act([document])
                except TataraError:
                    raise
                except Exception as error:
                    reason = f"step {step.label} failed: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
                    aside = Quarantined(document.source, None, f"{document.id}: {reason}", document.size)
                    found.append(aside)
                    if recording:
                        self._set_aside(aside)
            return found

    def _set_aside(self, found: Quarantined) -> None:
        self._unreadable.append(asdict(found))
        records, size = self._funnel.unreadable
        self._funnel.unreadable = (records + 1, size + found.size)

    def _drain(self, documents: Sequence[Document]) -> None:
        for document in documents:
            if document.counts:
                self._funnel.counts.update(document.counts)
                document.counts.clear()
            for step, record in document.records:
                literal = rows.json_text(record)
                self._records.append({"step": step, "id": rows.safe(document.id), "record": literal})
            document.records.clear()

    def _check_extracted(self, batch: Sequence[Document]) -> None:
        for document in batch:
            if document.content is not None:
                raise DataError(
                    f"{document.source} holds pages ({document.content_type or 'HTML'}) and no step takes their text "
                    "out: put the step 'extract' first"
                )


@functools.cache
def _made(implementation: str, directory: Path, position: int) -> list[Any]:
    """Where a process keeps a step between tasks: its model is loaded once."""
    return []


def _step(step: PlannedStep, work: Path) -> Any:
    held = _made(step.config.implementation, work, step.position)
    if not held:
        held.append(step.make(work))
    return held[0]


def selected(only: Selection, batch: list[Document]) -> list[Document]:
    """The documents of a batch that a step looks at."""
    if only == _EVERY:
        return batch
    return [
        item
        for item in batch
        if (not only.languages or item.language in only.languages)
        and (not only.kinds or item.kind in only.kinds)
        and (not only.sources or any(fnmatchcase(item.source, pattern) for pattern in only.sources))
    ]


_EVERY = Selection()
