"""Fuzzy deduplication: near-duplicates by MinHash and locality-sensitive hashing, out of core."""

import math
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from tatara.data.dedup.base import Deduplication
from tatara.data.dedup.candidates import find_candidates
from tatara.data.dedup.components import find_components
from tatara.data.dedup.confirm import agreement, confirm, signatures_of
from tatara.data.dedup.documents import Corpus, Table, by_shard
from tatara.data.dedup.grouping import Output, batch_records, choose_written
from tatara.data.dedup.index import IndexFile
from tatara.data.dedup.lsh import false_negatives
from tatara.data.dedup.records import KEYED, SECTIONS, SectionWriter, batches, record_array, section_of
from tatara.data.dedup.signatures import BAND, SignatureCollector, bands_and_rows, leaders_of
from tatara.data.dedup.stages import discard, run_stage
from tatara.data.dedup.verdicts import Features, Similarity
from tatara.data.shingles import mix
from tatara.data.steps import Collector, FanOut

_REPORTED = tuple(round(0.5 + 0.05 * step, 2) for step in range(11))


class FuzzyDedup(Deduplication):
    """One document of each cluster of near-duplicates."""

    limit_key: ClassVar[str] = "threshold"

    def bytes_per_document(self) -> int:
        """Rank and signature."""
        return 2 * int(self.config.permutations) + 64

    def collector(self, shard: int) -> Collector:
        """Band keys and signatures."""
        return SignatureCollector(self.config, self.directory, shard)

    def members(self, corpus: Corpus, memory: int, fan_out: FanOut) -> tuple[Output, dict[str, Any]]:
        """Candidates, confirmed; their components; who stays."""
        config = self.config
        bands, rows = bands_and_rows(config)
        needed = math.ceil((config.threshold - config.margin) * config.permutations - 1e-9)
        pairs = find_candidates(corpus, self.directory / "candidates", memory, fan_out)
        edges = confirm(pairs, corpus, self.directory, config.permutations, needed, memory, fan_out)
        nodes = find_components(edges, corpus, self.directory / "components", memory, fan_out)
        ranked = rank_members(nodes, corpus, self.directory / "ranked", memory, fan_out)
        members = choose_written(ranked, corpus, self.directory / "members", memory, fan_out)
        for name in ("candidates", "attached", "confirmed", "ranked"):
            discard(self.directory / name)  # the larger part of the disk that is needed
        missed = false_negatives(bands, rows, _REPORTED)
        return members, {"bands": bands, "rows": rows, "false_negatives": missed}

    def similarity(self) -> tuple[Features, Similarity]:
        """Agreement of signatures."""
        return partial(signatures_of, self.config.permutations), agreement

    def limit(self) -> float:
        """The threshold."""
        return float(self.config.threshold)

    def parameters(self) -> dict[str, Any]:
        """What signatures and band keys depend on."""
        bands, rows = bands_and_rows(self.config)
        config = self.config
        return {
            "ngram": config.ngram,
            "permutations": config.permutations,
            "seed": config.seed,
            "bands": bands,
            "rows": rows,
        }

    def index_files(self) -> list[IndexFile]:
        """Band keys and signatures."""
        signatures = IndexFile("signatures", np.dtype(np.uint16), width=self.config.permutations)
        return [IndexFile("bands", BAND, key="key", place="position"), signatures]

    def index_leaders(self, table: Table, stays: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Band keys of a document that goes pass to a twin that stays."""
        return leaders_of(table.directory, len(table), None if stays.all() else stays)


def rank_members(nodes: Output, corpus: Corpus, directory: Path, memory: int, fan_out: FanOut) -> Output:
    """Bring documents' ranks to their components: `KEYED`, the component being the key."""
    groups = [{"group": group} for group in range(corpus.groups)]
    most = batch_records(KEYED, memory)
    results = run_stage(directory, partial(_rank_task, nodes, corpus, most), groups, fan_out)
    return Output.of(directory, "ranked", KEYED, SECTIONS, results)


def _rank_task(nodes: Output, corpus: Corpus, most: int, item: dict[str, Any], output: Path) -> dict[str, Any]:
    writer = SectionWriter(output, "ranked", SECTIONS)
    for batch in batches(nodes.read(item["group"], item["group"] + 1, most), most):
        root = np.ascontiguousarray(batch["second"])
        ranked = record_array(KEYED, high=mix(root), low=root, primary=0, tie=0, node=batch["first"], copies=0)
        for shard, places, positions in by_shard(batch["first"]):
            documents = corpus.table(shard).documents[positions]
            for name in ("primary", "tie", "copies"):
                ranked[name][places] = documents[name]
        writer.write(ranked, section_of(ranked["high"]))
    return {"ranked": writer.files}
