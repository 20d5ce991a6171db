"""Counts lines over all documents, out of core."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tatara.data.dedup.config import LineDedupConfig
from tatara.data.dedup.documents import Corpus
from tatara.data.dedup.grouping import Output, batch_records, key_files, key_sizes, plan_sections, within
from tatara.data.dedup.records import Records, SectionWriter, batches, node_of, record_array
from tatara.data.dedup.stages import run_stage
from tatara.data.shingles import mix
from tatara.data.steps import FanOut

LINE = np.dtype([("hash", "<u8"), ("bucket", "<u4"), ("characters", "<u4"), ("position", "<u4")])
"""A line: hash, 32 bits of a hash of the document's id, characters, and the document."""
DROPPED = np.dtype([("node", "<u8"), ("hash", "<u8"), ("characters", "<u4")])
"""A line to drop from a document."""
_FOUND = np.dtype([("key", "<u8"), ("hash", "<u8"), ("node", "<u8"), ("characters", "<u4")])


def count_lines(
    corpus: Corpus, config: LineDedupConfig, buckets: int, directory: Path, memory: int, fan_out: FanOut
) -> tuple[Output, int]:
    """Find the lines that occur too often in a bucket of documents.

    Returns:
        The lines to drop, `DROPPED`, in sections by group of shards; and how many different lines there are of them.
    """
    most = batch_records(_FOUND, memory)
    tasks = plan_sections(key_sizes(corpus, "lines", LINE), most)
    task = partial(_count_task, corpus, config.max_count, config.keep_first, buckets, most)
    results = run_stage(directory, task, tasks, fan_out)
    return Output.of(directory, "lines", DROPPED, corpus.groups, results), sum(result["frequent"] for result in results)


def _found(corpus: Corpus, item: dict[str, Any], buckets: int, most: int) -> Iterator[Records]:
    for number, file in key_files(corpus, "lines", LINE):
        living: NDArray[np.bool_] | None = None
        known = False
        for piece in file.read(item["first"], item["last"], most):
            if not known:
                living, known = corpus.living(number), True
            if item["parts"] > 1:
                piece = piece[within(piece["hash"], item["part"], item["parts"])]
            if living is not None:
                piece = piece[living[piece["position"]]]
            bucket = (piece["bucket"].astype(np.uint64) * np.uint64(buckets)) >> np.uint64(32)
            key = piece["hash"] if buckets == 1 else mix(piece["hash"] ^ mix(bucket + np.uint64(1)))
            yield record_array(
                _FOUND,
                key=key,
                hash=piece["hash"],
                node=node_of(number, piece["position"]),
                characters=piece["characters"],
            )


def _count_task(
    corpus: Corpus, limit: int, keep_first: bool, buckets: int, most: int, item: dict[str, Any], output: Path
) -> dict[str, Any]:
    keys, counts, first = np.zeros(0, np.uint64), np.zeros(0, np.int64), np.zeros(0, np.uint64)
    only: Records | None = None
    for index, batch in enumerate(batches(_found(corpus, item, buckets, most), most)):
        only = batch if index == 0 else None
        keys, counts, first = _merge(
            np.concatenate([keys, batch["key"]]),
            np.concatenate([counts, np.ones(len(batch), np.int64)]),
            np.concatenate([first, batch["node"]]),
        )
    often = counts > limit
    keys, first = keys[often], first[often]
    writer = SectionWriter(output, "lines", corpus.groups)
    again = [only] if only is not None else batches(_found(corpus, item, buckets, most), most)
    for batch in again if len(keys) else []:
        place = np.minimum(np.searchsorted(keys, batch["key"]), len(keys) - 1)
        drop = keys[place] == batch["key"]
        if keep_first:
            drop &= batch["node"] != first[place]
        batch = batch[drop]
        lines = record_array(DROPPED, node=batch["node"], hash=batch["hash"], characters=batch["characters"])
        writer.write(lines, corpus.group_of(lines["node"]))
    return {"lines": writer.files, "frequent": len(keys)}


def _merge(
    keys: NDArray[np.uint64], counts: NDArray[np.int64], first: NDArray[np.uint64]
) -> tuple[NDArray[np.uint64], NDArray[np.int64], NDArray[np.uint64]]:
    """One entry per key: counts added up, the first document."""
    if not len(keys):
        return keys, counts, first
    order = np.argsort(keys)
    keys = keys[order]
    begins = np.flatnonzero(np.concatenate(([True], keys[1:] != keys[:-1])))
    return keys[begins], np.add.reduceat(counts[order], begins), np.minimum.reduceat(first[order], begins)
