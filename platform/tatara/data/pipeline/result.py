"""What a finished run leaves: the artifact's files, and what its report says."""

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from tatara import storage
from tatara.data.pipeline.config import CurateConfig
from tatara.data.pipeline.funnel import Funnel
from tatara.data.pipeline.pictures import pictures
from tatara.data.pipeline.rows import json_bytes
from tatara.data.pipeline.shard_pass import Pipeline
from tatara.data.read.shards import Shard
from tatara.data.shard_map import map_shards
from tatara.errors import DataError
from tatara.stage import StageRun

_DOCUMENT_SAMPLES = 8
INDEX = "index"
"""Payload directory with what later runs can be given: indexes of copies, trained models."""


def check(config: CurateConfig, pipeline: Pipeline, funnel: Funnel, unreadable: str) -> None:
    """Stop where there is nothing to go on with.

    Raises:
        DataError: Nothing was read, or nothing is left; says what dropped the most.
    """
    if not funnel.documents:
        if unreadable:
            raise DataError(f"corpus {config.corpus}: nothing could be read; {unreadable}")
        raise DataError(f"corpus {config.corpus} is empty: its files hold no documents")
    if funnel.result(pipeline.steps)[0]:
        return
    (position, reason), (count, _) = max(funnel.dropped.items(), key=lambda item: item[1])
    sample: dict[str, Any] = (funnel.samples.get((position, reason)) or [{}])[0]
    example = ""
    if reason == "language.keep" and sample.get("language"):
        example = f" (for example a document in '{sample['language']}')"
    elif sample.get("limit") is not None and sample.get("value") is not None:
        example = f" (for example {sample['value']:.3g} against {sample['limit']:.3g})"
    raise DataError(
        f"corpus {config.corpus}: nothing is left of {funnel.documents:,} documents; {reason} dropped "
        f"{count:,}{example}: relax --pipeline.{reason}, or take {pipeline.steps[position].label} out of the pipeline"
    )


def first_unreadable(pipeline: Pipeline, shards: Sequence[Shard]) -> str:
    """The first record that was set aside, in words; empty when there is none."""
    for shard in shards:
        path = pipeline.files(0, shard.index).path("unreadable")
        if path.exists():
            row = pq.read_table(path).slice(0, 1).to_pylist()[0]
            place = "" if row["place"] is None else f" at {row['place']}"
            return f"{row['source']}{place}: {row['reason']}"
    return ""


def collect(pipeline: Pipeline, shards: Sequence[Shard], stage_run: StageRun) -> None:
    """Put the parts into the payload: documents, and for each pass what was dropped, recorded and set aside."""
    moves = []
    for segment in pipeline.segments:
        last = segment.index == len(pipeline.segments) - 1
        for shard in shards:
            files = pipeline.files(segment.index, shard.index)
            for name in ("documents",) * last + ("decisions", "records", "unreadable"):
                if files.path(name).exists():
                    part = f"part-{shard.index:05d}" + ("" if name == "documents" else f"-{segment.index + 1}")
                    moves.append({"from": str(files.path(name)), "to": f"{name}/{part}.parquet"})
    output = stage_run.output.url
    if storage.is_local(output):
        for move in moves:
            _link(Path(move["from"]), Path(output) / move["to"])
        return

    def copy(item: dict[str, Any]) -> None:
        fs, path = storage.filesystem(storage.join(output, item["to"]))
        with storage.errors_named(path, "write"):
            fs.put_file(item["from"], path)

    for done, _ in enumerate(map_shards(copy, moves), start=1):
        stage_run.progress(done, len(moves), "files written")


def _link(source: Path, target: Path) -> None:
    """The same file under another name; a copy where the file system has no such thing."""
    storage.make_directory(str(target.parent))
    with storage.errors_named(str(target), "write"):
        try:
            os.link(source, target)
        except OSError:
            shutil.copyfile(source, target)


def publish(pipeline: Pipeline, output: Path) -> None:
    """Let steps write what later runs can be given."""
    for step in pipeline.steps:
        directory = output / INDEX / step.label
        directory.mkdir(parents=True, exist_ok=True)
        step.make(pipeline.work).publish(directory)
        if not any(directory.iterdir()):
            directory.rmdir()
    if (output / INDEX).exists() and not any((output / INDEX).iterdir()):
        (output / INDEX).rmdir()


def report(
    pipeline: Pipeline, shards: Sequence[Shard], funnel: Funnel, figures: dict[str, Any], stage_run: StageRun
) -> None:
    """Print the funnel, store it in the payload, and hand pictures to the run report."""
    stage_run.log(funnel.table(pipeline.steps))
    for name, count in sorted(funnel.counts.items()):
        stage_run.log(f"{name}: {count:,}")
    decoded = ", ".join(f"{count} from {name}" for name, count in sorted(funnel.encodings.items()))
    if decoded:
        stage_run.log(f"decoded from another encoding: {decoded}")
    aside = first_unreadable(pipeline, shards)
    if aside:
        stage_run.log(f"unreadable, for example {aside} (all in unreadable/)")
    literals = funnel.literals(pipeline.steps)
    finished = {}
    for step in pipeline.steps:
        if not step.is_global:
            found = step.make(pipeline.work).finish(_records(pipeline, shards, step.config.step))
            if found:
                finished[step.label] = found
    storage.write_bytes(
        storage.join(stage_run.output.url, "funnel.json"),
        json_bytes({**literals, "steps": {**figures, **finished}}),
    )
    samples = [
        {"reason": reason, **sample} for (_, reason), found in sorted(funnel.samples.items()) for sample in found
    ]
    stage_run.report("funnel", literals)
    stage_run.report("dropped_samples", samples)
    stage_run.report("document_samples", _document_samples(pipeline, shards))
    for key, value in pictures(funnel, figures, finished).items():
        stage_run.report(key, value)


def _records(pipeline: Pipeline, shards: Sequence[Shard], step: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """What a step recorded, over all passes and shards, in order."""
    for segment in pipeline.segments:
        for shard in shards:
            path = pipeline.files(segment.index, shard.index).path("records")
            if path.exists():
                for row in pq.read_table(path, filters=[("step", "=", step)]).to_pylist():
                    yield row["id"], json.loads(row["record"])


def _document_samples(pipeline: Pipeline, shards: Sequence[Shard]) -> list[dict[str, Any]]:
    last = len(pipeline.segments) - 1
    parts = [pipeline.files(last, shard.index).path("documents") for shard in shards]
    parts = [part for part in parts if part.exists()]
    samples = []
    columns = ["id", "text", "source", "language"]
    for part in parts[:: max(1, len(parts) // _DOCUMENT_SAMPLES)][:_DOCUMENT_SAMPLES]:
        with pq.ParquetFile(part) as file:
            batch = next(file.iter_batches(max(1, _DOCUMENT_SAMPLES // len(parts)), columns=columns))
        for row in batch.to_pylist():
            samples.append({**{key: row[key] for key in ("id", "source", "language")}, "excerpt": row["text"][:300]})
    return samples
