"""How many documents and bytes each step left, and what became of the rest."""

import builtins
import functools
import heapq
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

from tatara.data.document import Document, Verdict
from tatara.data.pipeline.planning import PlannedStep

UNREADABLE = "unreadable"
_EXCERPT = 300
_CLUSTER_EXCERPT = 1500
_CLUSTER_MEMBERS = 8


@dataclass
class Funnel:
    """Counts of one shard in one pass, or of all of them.

    Attributes:
        keep: Samples kept per reason.
        documents: Documents found.
        bytes: Their text or raw pages, bytes.
        raw_bytes: Bytes of the files read.
        unreadable: Records and files set aside, and their bytes.
        left: Position of a step to (documents, bytes) after it.
        dropped: (position, reason) to (documents, bytes).
        counts: What steps did, such as ``pii.email``.
        encodings: Encoding other than UTF-8 to documents.
        samples: (position, reason) to dropped documents, chosen by a hash of their ids so that shards do not matter.
        clusters: Cluster of copies to its members with their text, for the clusters of smallest hash.
        languages: Language to documents kept.
        lengths: Floor of the binary logarithm of characters to documents kept.
        copies: How many documents a kept one stands for, to documents kept.
    """

    keep: int
    documents: int = 0
    bytes: int = 0
    raw_bytes: int = 0
    unreadable: tuple[int, int] = (0, 0)
    left: dict[int, tuple[int, int]] = field(default_factory=dict)
    dropped: dict[tuple[int, str], tuple[int, int]] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    encodings: Counter[str] = field(default_factory=Counter)
    samples: dict[tuple[int, str], list[dict[str, Any]]] = field(default_factory=dict)
    clusters: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    languages: Counter[str] = field(default_factory=Counter)
    lengths: Counter[int] = field(default_factory=Counter)
    copies: Counter[int] = field(default_factory=Counter)

    def drop(self, position: int, verdict: Verdict, document: Document, size: int) -> None:
        """Count a dropped document and perhaps keep it as a sample."""
        key = (position, verdict.reason)
        _add(self.dropped, key, 1, size)
        sample = {
            "id": document.id, "value": verdict.value, "limit": verdict.limit, "kept_id": verdict.kept_id,
            "language": document.language,
        }  # fmt: skip
        self._sample(key, sample, _shown(document))
        if verdict.cluster is not None:
            removed = {"reason": verdict.reason, "similarity": verdict.value, "kept_id": verdict.kept_id}
            self._member(verdict.cluster, document, removed)

    def keeps(self, document: Document) -> None:
        """Count a document of the result."""
        self.languages[document.language or "not identified"] += 1
        self.lengths[len(document.text).bit_length() - 1] += 1
        self.copies[document.copies] += 1
        if document.cluster is not None and document.copies > 1:
            self._member(document.cluster, document, {"copies": document.copies})

    def add(self, other: "Funnel") -> None:
        """Add another shard's counts."""
        self.documents += other.documents
        self.bytes += other.bytes
        self.raw_bytes += other.raw_bytes
        self.unreadable = (self.unreadable[0] + other.unreadable[0], self.unreadable[1] + other.unreadable[1])
        for position, (documents, size) in other.left.items():
            _add(self.left, position, documents, size)
        for key, (documents, size) in other.dropped.items():
            _add(self.dropped, key, documents, size)
        for mine, theirs in (
            (self.counts, other.counts), (self.encodings, other.encodings), (self.languages, other.languages),
        ):  # fmt: skip
            mine.update(theirs)
        self.lengths.update(other.lengths)
        self.copies.update(other.copies)
        for key, samples in other.samples.items():
            self.samples[key] = _smallest(self.keep, [*self.samples.get(key, ()), *samples])
        for cluster, members in other.clusters.items():
            self.clusters[cluster] = _members([*self.clusters.get(cluster, ()), *members])
        self._trim()

    def passed(self, position: int, documents: int, size: int) -> None:
        """Count what a step left of a batch."""
        _add(self.left, position, documents, size)

    def result(self, steps: Sequence[PlannedStep]) -> tuple[int, int]:
        """Documents and bytes after the last step."""
        return self.left.get(steps[-1].position, (0, 0)) if steps else (self.documents, self.bytes)

    def _sample(self, key: tuple[int, str], sample: dict[str, Any], text: str) -> None:
        held = self.samples.setdefault(key, [])
        # Nearly always: the newcomer's hash is larger than those that are kept.
        if len(held) >= self.keep and (not self.keep or _hash(sample["id"]) >= _hash(held[-1]["id"])):
            return
        sample["excerpt"] = text[:_EXCERPT]
        self.samples[key] = _smallest(self.keep, [*held, sample])

    def _member(self, cluster: str, document: Document, more: dict[str, Any]) -> None:
        # A cluster's members lie anywhere; its hash decides everywhere alike whether it is shown.
        held = self.clusters.get(cluster)
        if held is None and len(self.clusters) >= self.keep and (not self.keep or _hash(cluster) >= self._largest()):
            return
        member = {"id": document.id, "excerpt": _shown(document)[:_CLUSTER_EXCERPT], **more}
        self.clusters[cluster] = _members([*(held or ()), member])
        self._trim()

    def _largest(self) -> "builtins.bytes":
        """The largest hash of a cluster that is kept; they are held in the order of their hashes."""
        return _hash(next(reversed(self.clusters)))

    def _trim(self) -> None:
        chosen = heapq.nsmallest(self.keep, self.clusters, key=_hash)
        self.clusters = {cluster: self.clusters[cluster] for cluster in chosen}

    def literals(self, steps: Sequence[PlannedStep]) -> dict[str, Any]:
        """The funnel as JSON-able data: ``stages`` in order, ``dropped`` with the most frequent reason first."""
        rows = [{"name": "read", "documents": self.documents, "bytes": self.bytes}]
        for step in steps:
            documents, size = self.left.get(step.position, (0, 0))
            rows.append({"name": step.label, "documents": documents, "bytes": size})
        labels = {step.position: step.label for step in steps}
        ordered = sorted(self.dropped.items(), key=lambda item: (-item[1][0], item[0]))
        dropped = [
            {"reason": reason, "step": labels[position], "documents": documents, "bytes": size}
            for (position, reason), (documents, size) in ordered
        ]
        return {
            "stages": rows,
            "dropped": dropped,
            "unreadable": {"documents": self.unreadable[0], "bytes": self.unreadable[1]},
            "raw_bytes": self.raw_bytes,
            "counts": dict(sorted(self.counts.items())),
            "encodings": dict(sorted(self.encodings.items())),
        }

    def table(self, steps: Sequence[PlannedStep]) -> str:
        """The funnel as aligned text."""
        found = self.literals(steps)
        rows: list[tuple[str, str, str, str]] = [("step", "documents", "MB", "left")]
        for stage in found["stages"]:
            share = stage["documents"] / self.documents if self.documents else 0.0
            rows.append((stage["name"], f"{stage['documents']:,}", f"{stage['bytes'] / 1e6:.2f}", f"{share:.1%}"))
            for drop in found["dropped"]:
                if drop["step"] == stage["name"]:
                    rows.append((f"  - {drop['reason']}", f"-{drop['documents']:,}", f"-{drop['bytes'] / 1e6:.2f}", ""))
        if self.unreadable[0]:
            rows.append(("set aside as unreadable", f"{self.unreadable[0]:,}", f"{self.unreadable[1] / 1e6:.2f}", ""))
        return align(rows)


def align(rows: Sequence[Sequence[str]]) -> str:
    """Lay out rows of text: the first column to the left, the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = (
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)


def _shown(document: Document) -> str:
    """What there is to show of a document; of a page whose text has not been extracted, its address."""
    return document.text or document.url or ""


def _add(counts: dict[Any, tuple[int, int]], key: Any, documents: int, size: int) -> None:
    before = counts.get(key, (0, 0))
    counts[key] = (before[0] + documents, before[1] + size)


@functools.lru_cache(256)
def _hash(name: str) -> bytes:
    return blake2b(name.encode("utf-8", "replace"), digest_size=8).digest()


def _smallest(count: int, samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return heapq.nsmallest(count, samples, key=lambda item: (_hash(item["id"]), item["id"]))


def _members(members: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Members to show, the kept one (which says how many copies it stands for) first."""
    ordered = sorted(members, key=lambda item: ("copies" not in item, _hash(item["id"]), item["id"]))
    return ordered[:_CLUSTER_MEMBERS]
