"""The ``curate`` stage: raw files through the steps of the pipeline, pass by pass, on Ray Data."""

import hashlib
import pickle
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tatara import storage
from tatara.data.pipeline import result
from tatara.data.pipeline.config import CurateConfig
from tatara.data.pipeline.funnel import Funnel
from tatara.data.pipeline.planning import PlannedStep, Segment, describe, plan_segments, plan_steps
from tatara.data.pipeline.shard_pass import Pipeline, run_shard
from tatara.data.read.shards import Shard, plan_shards
from tatara.data.shard_map import map_shards, map_tasks
from tatara.data.sources import Corpus, corpus_files, corpus_identity, files_identity
from tatara.data.steps import ShardRows
from tatara.errors import DataError
from tatara.stage import SourceFile, StageRun

# A small corpus has enough shards to keep a few cores busy, a large one not too many files.
_FEW_SHARDS, _MANY_SHARDS = 32, 512
_SMALLEST_SHARD, _USUAL_SHARD, _LARGEST_SHARD = 2_000_000, 64_000_000, 512_000_000


def sources(config: CurateConfig) -> list[SourceFile]:
    """Raw inputs: the corpus, and every file that a step reads."""
    named = [path for step in config.pipeline for path in step.files()]
    return [*corpus_identity(config.corpus, config.read.python_docs), *files_identity(named)]


def run(config: CurateConfig, stage_run: StageRun) -> dict[str, Any]:
    """Curate a corpus.

    Returns:
        Documents and bytes read and kept, and the number set aside as unreadable.

    Raises:
        DataError: Nothing could be read, too much could not, or nothing is left.
    """
    corpus = corpus_files(config.corpus, config.read.python_docs)
    shards = cut(corpus, config.shard_bytes)
    pipeline = assemble(config, stage_run.work / f"shards-{_key(shards)}")
    total = sum(file.size for file in corpus.files)
    if corpus.skipped:
        skipped = ", ".join(f"{count} {suffix}" for suffix, count in sorted(corpus.skipped.items()))
        stage_run.log(f"skipped files that are no known format: {skipped}")
    stage_run.log(f"{len(corpus.files):,} files, {total / 1e6:.1f} MB, in {len(shards)} shards")
    stage_run.log(describe(pipeline.segments))
    driver = Driver(config, pipeline, shards, stage_run)
    storage.make_directory(str(pipeline.work))
    with storage.full_disk_named(str(pipeline.work)):
        driver.prepare()
        for segment in pipeline.segments:
            driver.take(segment)
        funnel = driver.funnel
        result.check(config, pipeline, funnel, driver.first_unreadable())
        result.collect(pipeline, shards, stage_run)
        result.publish(pipeline, stage_run.output.path)
        result.report(pipeline, shards, funnel, driver.figures, stage_run)
    documents, size = funnel.result(pipeline.steps)
    return {
        "documents_read": funnel.documents,
        "bytes_read": funnel.bytes,
        "documents": documents,
        "bytes": size,
        "duplicates": sum(count for (_, reason), (count, _) in funnel.dropped.items() if "_dedup." in reason),
        "unreadable": funnel.unreadable[0],
    }


def assemble(config: CurateConfig, work: Path) -> Pipeline:
    """Plan a configuration's steps."""
    steps = plan_steps(config.pipeline)
    return Pipeline(steps, plan_segments(steps), config.read, work, config.samples)


def cut(corpus: Corpus, shard_bytes: int | None) -> list[Shard]:
    """Cut a corpus into shards; their size depends on the corpus alone, never on the cluster."""
    total = sum(file.size for file in corpus.files)
    usual = min(max(total // _FEW_SHARDS, _SMALLEST_SHARD), _USUAL_SHARD)
    return plan_shards(corpus.files, shard_bytes or min(max(total // _MANY_SHARDS, usual), _LARGEST_SHARD))


def _key(shards: Sequence[Shard]) -> str:
    return hashlib.sha256("".join(shard.key for shard in shards).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Alive:
    """Which rows of a shard the global steps before one, in the same pass, have left."""

    before: tuple[PlannedStep, ...]
    rows: Mapping[int, int]
    work: Path

    def __call__(self, shard: int) -> NDArray[np.bool_]:
        """A mask over the shard's rows: ``[rows]``."""
        alive = np.ones(self.rows[shard], bool)
        for step in self.before:
            alive &= ~step.make(self.work).removed(shard)
        return alive

    def gained(self, shard: int) -> NDArray[np.int64]:
        """How many copies each row stands for by the verdicts of those steps: ``[rows]``."""
        gained = np.zeros(self.rows[shard], np.int64)
        for step in self.before:
            found = step.make(self.work).gained(shard)
            if found is not None:
                gained += found
        return gained


class Driver:
    """Takes the shards through the passes, and remembers how far it came.

    Attributes:
        funnel: Counts of all shards and passes so far.
        figures: What global steps found out, by label.
    """

    def __init__(self, config: CurateConfig, pipeline: Pipeline, shards: Sequence[Shard], stage_run: StageRun) -> None:
        self._config = config
        self._pipeline = pipeline
        self._shards = shards
        self._run = stage_run
        self._rows: dict[int, int] = {}
        self.funnel = Funnel(config.samples)
        self.figures: dict[str, Any] = {}

    def prepare(self) -> None:
        """Let every step do once what its tasks will need."""
        for step in self._pipeline.steps:
            storage.make_directory(str(step.directory(self._pipeline.work)))
            started = time.monotonic()
            step.make(self._pipeline.work).prepare()
            if time.monotonic() - started > 1:
                self._run.log(f"{step.label}: prepared in {time.monotonic() - started:.0f} s")

    def take(self, segment: Segment) -> None:
        """Do a pass over every shard, then decide what its global steps have to decide."""
        self._pass(segment)
        for shard in self._shards:
            left, funnel = self._pipeline.files(segment.index, shard.index).load()
            self._rows[shard.index] = left
            self.funnel.add(funnel)
        if segment.index == 0:
            self._limit(self.funnel.documents, self.funnel.unreadable[0], finished=True)
        for place, step in enumerate(segment.globals):
            self._decide(segment.globals[:place], step)
        if segment.index:
            # What this pass read will not be read again, whatever happens.
            for shard in self._shards:
                self._pipeline.files(segment.index - 1, shard.index).path("documents").unlink(missing_ok=True)

    def _pass(self, segment: Segment) -> None:
        pipeline, index = self._pipeline, segment.index
        waiting = [shard for shard in self._shards if not pipeline.files(index, shard.index).summary.exists()]
        total = sum(file.size for shard in self._shards for file in shard.files)
        left = sum(file.size for shard in waiting for file in shard.files)
        if len(waiting) < len(self._shards):
            done = len(self._shards) - len(waiting)
            self._run.log(f"pass {index + 1}: {done} of {len(self._shards)} shards were done before; going on")
        documents, unreadable = 0, 0
        started = time.monotonic()
        unit = f"MB, pass {index + 1} of {len(pipeline.segments)}"
        self._run.progress((total - left) / 1e6, total / 1e6, unit)
        items = [{"shard": pickle.dumps(shard)} for shard in waiting]
        for found in map_shards(partial(_task, pipeline, index), items):
            left -= found["bytes"]
            documents += found["read"] if index == 0 else found["left"]
            unreadable += found["unreadable"]
            rate = documents / max(time.monotonic() - started, 1e-3)
            self._run.progress((total - left) / 1e6, total / 1e6, unit, documents_per_s=round(rate))
            self._limit(documents, unreadable, finished=False)

    def _limit(self, documents: int, unreadable: int, finished: bool) -> None:
        limit = self._config.read.max_unreadable
        # A share is known only when everything has been read.
        if limit is None or (limit < 1 and not finished):
            return
        if unreadable > (limit * (documents + unreadable) if limit < 1 else limit):
            raise DataError(
                f"{unreadable:,} records could not be read, more than read.max_unreadable ({limit:g}) allows, such as "
                f"{self.first_unreadable()}"
            )

    def first_unreadable(self) -> str:
        """The first record that was set aside, in words; empty when there is none."""
        return result.first_unreadable(self._pipeline, self._shards)

    def _decide(self, before: tuple[PlannedStep, ...], step: PlannedStep) -> None:
        decided = step.directory(self._pipeline.work) / "decided.pickle"
        if not decided.exists():
            shards = [ShardRows(shard.index, self._rows[shard.index]) for shard in self._shards]
            alive = Alive(before, self._rows, self._pipeline.work)
            started = time.monotonic()
            found = step.make(self._pipeline.work).decide(shards, alive, self._fan_out, self._config.task_memory)
            storage.replace_bytes(decided, pickle.dumps(found))
            self._run.log(f"{step.label}: decided in {time.monotonic() - started:.1f} s")
        figures = self.figures[step.label] = pickle.loads(decided.read_bytes())
        if "false_negatives" in figures:
            missed = ", ".join(f"{share:.2%} at {similarity:.2f}" for similarity, share in figures["false_negatives"])
            self._run.log(
                f"{step.label}: {figures['bands']} bands of {figures['rows']} rows miss, by similarity: {missed}"
            )

    def _fan_out(self, function: "Task", items: Sequence[Mapping[str, Any]]) -> Iterator[Any]:
        return map_tasks(partial(_named, function, str(self._pipeline.work)), items)


Task = Callable[[dict[str, Any]], Any]


def _task(pipeline: Pipeline, segment: int, item: dict[str, Any]) -> dict[str, int]:
    with storage.full_disk_named(str(pipeline.work)):
        return run_shard(pipeline, segment, pickle.loads(item["shard"]))


def _named(function: Task, work: str, item: dict[str, Any]) -> Any:
    with storage.full_disk_named(work):
        return function(item)
