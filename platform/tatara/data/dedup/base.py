"""The frame of every deduplication step: shards and groups of them, one task or many, verdicts, indexes."""

import json
from abc import abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from tatara.data.dedup.documents import Corpus, Table, collected, collected_tables, group_shards
from tatara.data.dedup.grouping import Output
from tatara.data.dedup.index import IndexFile, check_index, index_shards, write_index
from tatara.data.dedup.records import EARLIER, remembered, write_atomically
from tatara.data.dedup.stages import read_decision, tidy
from tatara.data.dedup.verdicts import Features, ShardVerdicts, Similarity, group_of_shard, write_verdicts
from tatara.data.document import Document
from tatara.data.steps import FanOut, GlobalStep, ShardRows, Verdicts, serially

_ONE_TASK = 8
"""A step whose keys fit this often in a task's memory is one task."""


class Deduplication(GlobalStep):
    """A step that finds clusters of documents and keeps one of each.

    Subclasses say how to collect keys and how to find clusters' members from them.
    """

    limit_key: ClassVar[str] = "keep"
    """The configuration key that the verdicts' reason names."""

    @abstractmethod
    def members(self, corpus: Corpus, memory: int, fan_out: FanOut) -> tuple[Output, dict[str, Any]]:
        """Find the documents of clusters; and figures for the report."""

    def similarity(self) -> tuple[Features, Similarity] | None:
        """How the similarity of a document to the one that stays is measured; None where it is always 1."""
        return None

    def limit(self) -> float | None:
        """What the verdicts state as limit."""
        return None

    def bytes_per_document(self) -> int:
        """What tasks on a group of shards hold per document, beside ids."""
        return 64

    def parameters(self) -> dict[str, Any]:
        """What an index must have in common with this run."""
        return {}

    @property
    def against(self) -> tuple[str, ...]:
        """Indexes of earlier runs."""
        return tuple(getattr(self.config, "against", ()))

    def prepare(self) -> None:
        """Check that the indexes fit."""
        for path in self.against:
            check_index(Path(path), self.config.step, self.parameters())

    def decide(
        self,
        shards: Sequence[ShardRows],
        alive: Callable[[int], NDArray[np.bool_]],
        fan_out: FanOut,
        memory: int,
    ) -> dict[str, Any]:
        """Find the clusters and write the verdicts of every shard; see `GlobalStep.decide`."""
        decision = self.directory / "decision.json"
        if decision.exists():
            found: dict[str, Any] = json.loads(decision.read_text())
            return dict(found["figures"])
        grouped = remembered(self.directory / "groups.json", lambda: self._group(shards, memory))
        earlier = [part for path in self.against for part in index_shards(Path(path))]
        numbers = [shard.index for shard in shards] + [EARLIER + place for place in range(len(earlier))]
        corpus = Corpus(self.directory, tuple(numbers), tuple(earlier), tuple(grouped["starts"]), alive)
        if grouped["whole"]:
            figures = {}
            for result in fan_out(partial(_decide_here, self, corpus, memory), [{"task": 0}]):
                figures = result
        else:
            figures = self.work(corpus, memory, fan_out)
        figures = {"documents": grouped["documents"], "earlier_documents": grouped["earlier"], **figures}
        if hasattr(self.config, "against"):
            self._note_living(corpus, [shard.index for shard in shards])
        rows = {str(shard.index): shard.rows for shard in shards}
        known = {"figures": figures, "starts": grouped["starts"], "rows": rows}
        write_atomically(decision, json.dumps(known).encode())
        tidy(self.directory)
        return figures

    def _note_living(self, corpus: Corpus, numbers: Sequence[int]) -> None:
        """Keep which collected documents earlier steps had removed, for `publish`."""
        for number in numbers:
            living = corpus.living(number)
            if living is not None:
                (self.directory / "living").mkdir(exist_ok=True)
                write_atomically(self.directory / "living" / f"{number:06d}", living)

    def _group(self, shards: Sequence[ShardRows], memory: int) -> dict[str, Any]:
        tables = collected_tables(self.directory, self.config.step, shards)
        own = len(tables)
        tables += [Table(part) for path in self.against for part in index_shards(Path(path))]
        numbers = [shard.index for shard in shards] + [EARLIER + place for place in range(len(tables) - own)]
        documents = [len(table) for table in tables]
        sizes = [self.bytes_per_document() * len(table) + table.meta["id_bytes"] for table in tables]
        total = sum(table.meta.get("key_bytes", 0) for table in tables) + sum(sizes)
        whole = total * _ONE_TASK <= memory
        return {
            "starts": group_shards(numbers, sizes, sum(sizes) if whole else max(memory // 4, 1)),
            "whole": whole,
            "documents": sum(documents[:own]),
            "earlier": sum(documents[own:]),
        }

    def work(self, corpus: Corpus, memory: int, fan_out: FanOut) -> dict[str, Any]:
        """Find members and write verdicts."""
        members, figures = self.members(corpus, memory, fan_out)
        counts = write_verdicts(members, corpus, self.directory, memory, fan_out, self.similarity())
        return {**counts, **figures}

    def _decision(self) -> dict[str, Any]:
        return read_decision(self.directory, self.config.step)

    def _verdicts(self, shard: int) -> tuple[ShardVerdicts, int]:
        decision = self._decision()
        group = group_of_shard(decision["starts"], shard)
        return ShardVerdicts(self.directory, group, shard), decision["rows"][str(shard)]

    def removed(self, shard: int) -> NDArray[np.bool_]:
        """Which rows of a shard go: ``[rows]``."""
        verdicts, rows = self._verdicts(shard)
        return verdicts.removed(rows)

    def gained(self, shard: int) -> "NDArray[np.int64] | None":
        """How many copies the rows of a shard stand for by the verdicts, besides before: ``[rows]``."""
        verdicts, rows = self._verdicts(shard)
        return verdicts.gained(rows)

    def judge(self, shard: int) -> Callable[[Sequence[Document]], Verdicts]:
        """Hand down the verdicts; what stays is marked with its copies and cluster."""
        name = self.config.step
        return self._verdicts(shard)[0].judge(f"{name}.{self.limit_key}", f"{name}.against", self.limit())

    def publish(self, output: Path) -> None:
        """Write an index of what stays; ``against`` of a later run's step names the directory."""
        if not hasattr(self.config, "against"):
            return
        output.mkdir(parents=True, exist_ok=True)
        for number in self._decision()["rows"]:
            table = Table(collected(self.directory) / f"{int(number):06d}")
            stays = ~self.removed(int(number))[table.documents["row"]]
            noted = self.directory / "living" / f"{int(number):06d}"
            if noted.exists():
                stays &= np.fromfile(noted, bool)
            leaders = self.index_leaders(table, stays)
            write_index(output, int(number), table, stays, leaders, self.index_files())
        described = {"step": self.config.step, **self.parameters()}
        write_atomically(output / "index.json", json.dumps(described).encode())

    def index_files(self) -> list[IndexFile]:
        """The files of keys that an index takes over."""
        return []

    def index_leaders(self, table: Table, stays: NDArray[np.bool_]) -> NDArray[np.int64]:
        """For each document the one that its keys stand for in an index; -1 for none: ``[documents]``."""
        return np.where(stays, np.arange(len(table)), -1)


def _decide_here(step: Deduplication, corpus: Corpus, memory: int, item: dict[str, Any]) -> dict[str, Any]:
    return step.work(corpus, memory, serially)
