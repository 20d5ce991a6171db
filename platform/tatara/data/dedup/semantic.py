"""Semantic deduplication (SemDeDup): documents whose embeddings point in almost the same direction."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from tatara.data.dedup.base import Deduplication
from tatara.data.dedup.documents import Corpus, DocumentCollector, by_shard
from tatara.data.dedup.embed import embed, load_embedding
from tatara.data.dedup.grouping import Output
from tatara.data.dedup.kmeans import fit, nearest
from tatara.data.dedup.neighbours import compare_clusters, vector_record
from tatara.data.dedup.records import SectionWriter, node_of, record_array
from tatara.data.dedup.stages import run_stage, task_directory
from tatara.data.dedup.verdicts import Features, Similarity
from tatara.data.document import Document
from tatara.data.shingles import mix
from tatara.data.steps import Collector, FanOut
from tatara.errors import ConfigError

_BATCH = 256
_MOST_SAMPLED = 200_000
_SAMPLE_MARGIN = 1.3
_MOST_CLUSTERS = 60_000
_BLOCK = 8192


class _VectorCollector(DocumentCollector):
    """Collects embeddings; documents without any feature have none."""

    def __init__(self, config: Any, directory: Path, shard: int) -> None:
        super().__init__(config, directory, shard)
        self._waiting: list[str] = []
        self._width = self._bytes = 0
        self._embedding = load_embedding(config)

    def take(self, documents: Sequence[Document]) -> None:
        self._waiting += [document.text for document in documents]
        while len(self._waiting) >= _BATCH:
            self._embed(self._waiting[:_BATCH])
            self._waiting = self._waiting[_BATCH:]

    def _embed(self, texts: list[str]) -> None:
        vectors = embed(texts, self._embedding)
        if self._width not in (0, vectors.shape[1]):
            raise ConfigError(
                f"semantic_dedup.embedding: got vectors of {self._width} and of {vectors.shape[1]} dimensions; "
                "all must have the same"
            )
        self._width = vectors.shape[1]
        self._bytes += vectors.nbytes
        with (self.workspace / "vectors").open("ab") as stream:
            vectors.tofile(stream)

    def write(self, directory: Path, table: Any) -> dict[str, Any]:
        if self._waiting:
            self._embed(self._waiting)
        return {"dimensions": self._width, "key_bytes": self._bytes}


class SemanticDedup(Deduplication):
    """Of documents of almost the same direction the preferred one stays."""

    limit_key: ClassVar[str] = "threshold"

    def prepare(self) -> None:
        """See that the embedding is there."""
        embed(["a text"], load_embedding(self.config))

    def collector(self, shard: int) -> Collector:
        """Embeddings."""
        return _VectorCollector(self.config, self.directory, shard)

    def members(self, corpus: Corpus, memory: int, fan_out: FanOut) -> tuple[Output, dict[str, Any]]:
        """Centroids from a sample, every document to its centroid, comparisons within."""
        groups = [{"group": group} for group in range(corpus.groups)]
        counted = run_stage(self.directory / "counted", partial(_count_task, corpus), groups, fan_out)
        total = sum(result["documents"] for result in counted)
        width = max((result["dimensions"] for result in counted), default=0)
        clusters = self.config.clusters or -(-total // self.config.documents_per_cluster)
        clusters = max(1, min(clusters, total, _MOST_CLUSTERS))
        wanted = min(clusters * self.config.sample, _MOST_SAMPLED, total)
        # By a hash of the id, so that the sample does not depend on shards; a few more, of which the first are used.
        below = min(1.0, wanted / max(total, 1) * _SAMPLE_MARGIN + 1e-3)
        run_stage(self.directory / "sampled", partial(_sample_task, corpus, width, below), groups, fan_out)
        task = partial(_fit_task, self.directory / "sampled", len(groups), width, self.config, clusters, wanted)
        fitted = run_stage(self.directory / "centroids", task, [{"task": 0}], fan_out)
        centroids = task_directory(self.directory / "centroids", 0) / "centroids.npy"
        sections = min(max(clusters, 1), 1024)
        task = partial(_assign_task, corpus, width, centroids, sections)
        results = run_stage(self.directory / "assigned", task, groups, fan_out)
        assigned = Output.of(self.directory / "assigned", "vectors", vector_record(width), sections, results)
        members, compared = compare_clusters(
            assigned, corpus, self.directory / "members", self.config.threshold, memory, fan_out
        )
        return members, {"k_means_clusters": fitted[0]["clusters"], "sampled": fitted[0]["sampled"], **compared}

    def similarity(self) -> tuple[Features, Similarity]:
        """Cosine of embeddings."""
        return vectors_of, cosine

    def limit(self) -> float:
        """The threshold."""
        return float(self.config.threshold)


def _vectors(corpus: Corpus, number: int, width: int) -> NDArray[np.int16]:
    table = corpus.table(number)
    if not len(table) or not width:
        return np.zeros((len(table), width), np.int16)
    found: NDArray[np.int16] = np.memmap(table.directory / "vectors", np.int16, "r").reshape(-1, width)
    return found


def vectors_of(corpus: Corpus, nodes: NDArray[np.uint64]) -> NDArray[np.int16]:
    """Embeddings of some documents: ``[documents, dimensions]``."""
    parts = by_shard(nodes)
    width = max((corpus.table(number).meta["dimensions"] for number, _, _ in parts), default=0)
    found = np.zeros((len(nodes), width), np.int16)
    for number, places, positions in parts:
        found[places] = _vectors(corpus, number, width)[positions]
    return found


def cosine(first: NDArray[np.int16], second: NDArray[np.int16]) -> NDArray[np.float32]:
    """Cosine similarity, pair by pair: ``[pairs]``."""
    a, b = first.astype(np.float64), second.astype(np.float64)
    lengths = np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
    return ((a * b).sum(axis=1) / np.where(lengths > 0, lengths, 1)).astype(np.float32)


def _usable(corpus: Corpus, number: int, width: int) -> NDArray[np.int64]:
    """Positions of documents that are still there and have an embedding."""
    living = corpus.living(number)
    vectors = _vectors(corpus, number, width)
    usable = np.ones(len(vectors), bool) if living is None else living.copy()
    for start in range(0, len(vectors), _BLOCK):
        usable[start : start + _BLOCK] &= vectors[start : start + _BLOCK].any(axis=1)
    return np.flatnonzero(usable)


def _count_task(corpus: Corpus, item: dict[str, Any], output: Path) -> dict[str, Any]:
    widths = [int(corpus.table(number).meta["dimensions"]) for number in corpus.group(item["group"])]
    width = max(widths, default=0)
    documents = sum(len(_usable(corpus, number, width)) for number in corpus.group(item["group"]))
    return {"documents": documents, "dimensions": width}


def _sample_task(corpus: Corpus, width: int, below: float, item: dict[str, Any], output: Path) -> dict[str, Any]:
    vectors = [np.zeros((0, width), np.int16)]
    orders, nodes = [np.zeros(0, np.uint64)], [np.zeros(0, np.uint64)]
    for number in corpus.group(item["group"]):
        positions = _usable(corpus, number, width)
        order = mix(_id_hash(corpus, number)[positions])
        chosen = order <= np.uint64(min(below, 1.0) * (2**64 - 2**12))
        positions = positions[chosen]
        vectors.append(_vectors(corpus, number, width)[positions])
        orders.append(order[chosen])
        nodes.append(node_of(number, positions))
    with (output / "sample.npz").open("wb") as stream:
        np.savez(stream, vectors=np.concatenate(vectors), orders=np.concatenate(orders), nodes=np.concatenate(nodes))
    return {}


def _id_hash(corpus: Corpus, number: int) -> NDArray[np.uint64]:
    documents = corpus.table(number).documents
    # Ranks by order of the corpus have no hash of the id; place in the corpus serves as well.
    return np.where(documents["tie"] > 0, documents["tie"], node_of(number, np.arange(len(documents))))


def _fit_task(
    sampled: Path, groups: int, width: int, config: Any, clusters: int, wanted: int, item: dict[str, Any], output: Path
) -> dict[str, Any]:
    parts = [np.load(task_directory(sampled, group) / "sample.npz") for group in range(groups)]
    vectors = np.concatenate([part["vectors"] for part in parts])
    orders = np.concatenate([part["orders"] for part in parts])
    nodes = np.concatenate([part["nodes"] for part in parts])
    vectors = vectors[np.lexsort((nodes, orders))[:wanted]]
    clusters = max(1, min(clusters, len(vectors)))
    centroids = fit(vectors, clusters, config.iterations, config.seed) if len(vectors) else np.zeros((1, width))
    np.save(output / "centroids.npy", centroids)
    return {"clusters": len(centroids), "sampled": len(vectors)}


def _assign_task(
    corpus: Corpus, width: int, centroids: Path, sections: int, item: dict[str, Any], output: Path
) -> dict[str, Any]:
    known = np.load(centroids)
    writer = SectionWriter(output, "vectors", sections)
    for number in corpus.group(item["group"]):
        positions = _usable(corpus, number, width)
        documents = corpus.table(number).documents
        for start in range(0, len(positions), _BLOCK):
            chosen = positions[start : start + _BLOCK]
            vectors = np.asarray(_vectors(corpus, number, width)[chosen])
            cluster = nearest(vectors, known)
            records = record_array(
                vector_record(width),
                cluster=cluster,
                node=node_of(number, chosen),
                primary=documents["primary"][chosen],
                tie=documents["tie"][chosen],
                copies=documents["copies"][chosen],
                vector=vectors,
            )
            writer.write(records, cluster * sections // len(known))
    return {"vectors": writer.files}
