"""Reads a corpus, runs one global step and writes what survives, as plainly as can be: the step's own cost."""

import shutil
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tatara.data.dedup.config import FuzzyDedupConfig
from tatara.data.dedup.fuzzy import FuzzyDedup
from tatara.data.document import Document
from tatara.data.steps import FanOut, ShardRows, serially

_BATCH = 1000


class Rows:
    """All rows of every shard are there."""

    def __init__(self, rows: Iterable[int]) -> None:
        self.rows = list(rows)

    def __call__(self, shard: int) -> NDArray[np.bool_]:
        return np.ones(self.rows[shard], bool)


def read(path: str) -> tuple[Any, list[Document]]:
    """A Parquet file as a table and as documents."""
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    columns = zip(table["id"].to_pylist(), table["text"].to_pylist(), strict=True)
    return table, [Document(id=name, text=text, source=path, row=row) for row, (name, text) in enumerate(columns)]


def collect(step: FuzzyDedup, item: dict[str, Any]) -> tuple[int, int]:
    """Collect the keys of a file; its number and rows."""
    _, documents = read(item["path"])
    collector = step.collector(item["shard"])
    for start in range(0, len(documents), _BATCH):
        collector.add(documents[start : start + _BATCH])
    collector.close()
    return item["shard"], len(documents)


def keep(step: FuzzyDedup, item: dict[str, Any]) -> int:
    """Write what survives of a file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table, documents = read(item["path"])
    stays = [verdict is None for verdict in step.judge(item["shard"])(documents)]
    pq.write_table(table.filter(pa.array(stays)), item["output"], compression="zstd")
    return sum(stays)


def deduplicate(corpus: Path, output: Path, workers: int, memory: int = 1 << 30, **values: Any) -> dict[str, Any]:
    """Deduplicate the Parquet files of a corpus.

    Args:
        corpus: Its directory.
        output: Where survivors go.
        workers: Logical CPUs of a private Ray cluster; 0 for this process alone.
        memory: Bytes for one task of `FuzzyDedup.decide`.
        **values: Of the step's configuration.

    Returns:
        The step's figures.
    """
    fan_out: FanOut = serially
    small: FanOut = serially
    if workers:
        import ray

        from tatara.data.shard_map import map_shards, map_tasks

        ray.init(address="local", num_cpus=workers, include_dashboard=False, logging_level="ERROR")
        fan_out, small = map_shards, map_tasks
    output.mkdir(parents=True, exist_ok=True)
    work = output / "work"
    step = FuzzyDedup(FuzzyDedupConfig(**values), work)
    step.prepare()
    files = sorted((corpus / "parquet").glob("*.parquet"))
    items = [
        {"shard": number, "path": str(path), "output": str(output / path.name)} for number, path in enumerate(files)
    ]
    rows = dict(fan_out(partial(collect, step), items))
    shards = [ShardRows(number, rows[number]) for number in sorted(rows)]
    figures = step.decide(shards, Rows(shard.rows for shard in shards), small, memory)
    for _ in fan_out(partial(keep, step), items):
        pass
    shutil.rmtree(work)
    return figures
