"""How many documents and bytes each step kept, and what became of the rest."""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

STEPS = ("read", "length", "language", "c4", "gopher_quality", "gopher_repetition", "dedup.exact", "dedup.fuzzy")
"""Steps in order; the reason for a drop begins with the name of its step."""
UNREADABLE = "unreadable"
_EXCERPT = 300


@dataclass
class Funnel:
    """Counts of one shard, or of all of them.

    Attributes:
        documents: Documents found.
        bytes: Their text, bytes of UTF-8.
        raw_bytes: Bytes of the files read.
        dropped: Reason to (documents, bytes).
        repaired: Documents whose text ftfy changed.
        decoded: Encoding other than UTF-8 to number of documents.
        samples: Reason to dropped documents, chosen by a hash of their ids so that shards do not matter.
        keep: Samples kept per reason.
    """

    keep: int
    documents: int = 0
    bytes: int = 0
    raw_bytes: int = 0
    dropped: dict[str, tuple[int, int]] = field(default_factory=dict)
    repaired: int = 0
    decoded: dict[str, int] = field(default_factory=dict)
    samples: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def drop(self, reason: str, size: int, id: str, value: float | None, text: str, **more: Any) -> None:
        """Count a dropped document and perhaps keep it as a sample."""
        self.count(reason, 1, size)
        self._sample(reason, {"id": id, "value": value, "excerpt": text[:_EXCERPT], **more})

    def count(self, reason: str, documents: int, size: int) -> None:
        """Count dropped documents."""
        before = self.dropped.get(reason, (0, 0))
        self.dropped[reason] = (before[0] + documents, before[1] + size)

    def add(self, other: "Funnel") -> None:
        """Add another shard's counts."""
        self.documents += other.documents
        self.bytes += other.bytes
        self.raw_bytes += other.raw_bytes
        self.repaired += other.repaired
        for encoding, documents in other.decoded.items():
            self.decoded[encoding] = self.decoded.get(encoding, 0) + documents
        for reason, (documents, size) in other.dropped.items():
            self.count(reason, documents, size)
        for reason, samples in other.samples.items():
            for sample in samples:
                self._sample(reason, sample)

    def _sample(self, reason: str, sample: dict[str, Any]) -> None:
        kept = [*self.samples.get(reason, ()), sample]
        self.samples[reason] = heapq.nsmallest(
            self.keep, kept, key=lambda item: blake2b(item["id"].encode("utf-8", "replace"), digest_size=8).digest()
        )

    def stages(self) -> list[dict[str, Any]]:
        """Documents and bytes left after each step that dropped something, in order; "read" is what came in."""
        documents, size = self.documents, self.bytes
        rows = []
        for step in STEPS:
            lost = [
                counts for reason, counts in self.dropped.items() if reason == step or reason.startswith(f"{step}.")
            ]
            documents -= sum(count for count, _ in lost)
            size -= sum(count for _, count in lost)
            rows.append({"name": step, "documents": documents, "bytes": size})
        return rows

    def literals(self) -> dict[str, Any]:
        """The funnel as JSON-able data: ``stages`` in order, ``dropped`` with the most frequent reason first."""
        ordered = sorted(self.dropped.items(), key=lambda item: (-item[1][0], item[0]))
        return {
            "stages": self.stages(),
            "dropped": [{"reason": r, "documents": documents, "bytes": size} for r, (documents, size) in ordered],
            "raw_bytes": self.raw_bytes,
            "repaired": self.repaired,
            "decoded": dict(sorted(self.decoded.items())),
        }

    def table(self) -> str:
        """The funnel as aligned text."""
        rows: list[tuple[str, str, str, str]] = [("step", "documents", "MB", "left")]
        for stage in self.stages():
            share = stage["documents"] / self.documents if self.documents else 0.0
            rows.append((stage["name"], f"{stage['documents']:,}", f"{stage['bytes'] / 1e6:.2f}", f"{share:.1%}"))
            for reason, (documents, size) in sorted(self.dropped.items(), key=lambda item: -item[1][0]):
                if stage["name"] != "read" and reason.startswith(stage["name"]):
                    rows.append((f"  - {reason}", f"-{documents:,}", f"-{size / 1e6:.2f}", ""))
        if UNREADABLE in self.dropped:
            documents, size = self.dropped[UNREADABLE]
            rows.append(("set aside as unreadable", f"{documents:,}", f"{size / 1e6:.2f}", ""))
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
