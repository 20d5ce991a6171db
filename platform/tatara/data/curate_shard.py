"""What one task of the ``curate`` stage does: read, repair, filter and sign a shard's documents."""

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tatara import storage
from tatara.data import filters
from tatara.data.curate import CurateConfig
from tatara.data.dedup import Keys, concatenate, make_keys
from tatara.data.filters import Verdict
from tatara.data.funnel import UNREADABLE, Funnel
from tatara.data.language import identify
from tatara.data.read import Document, Quarantined, Shard, read_file
from tatara.data.repair import repair

SCHEMA = pa.schema(
    [
        ("id", pa.string()), ("text", pa.string()), ("source", pa.string()), ("url", pa.string()),
        ("language", pa.string()), ("language_score", pa.float32()), ("metadata", pa.string()),
    ]
)  # fmt: skip
OUTPUT_SCHEMA = SCHEMA.append(pa.field("copies", pa.int64()))
"""``copies``: how many documents, itself among them, a document stands for after deduplication."""
DUPLICATE_SCHEMA = pa.schema(
    [("id", pa.string()), ("reason", pa.string()), ("kept_id", pa.string()), ("similarity", pa.float32())]
)
SAMPLE_SCHEMA = pa.schema(
    [
        ("reason", pa.string()), ("id", pa.string()), ("value", pa.float64()), ("limit", pa.float64()),
        ("language", pa.string()), ("kept_id", pa.string()), ("excerpt", pa.string()),
    ]
)  # fmt: skip
UNREADABLE_SCHEMA = pa.schema(
    [
        ("source", pa.string()), ("place", pa.int64()), ("reason", pa.string()), ("size", pa.int64()),
        ("excerpt", pa.string()),
    ]
)  # fmt: skip
_QUARANTINE_LIMIT = 1000
_BATCH_CHARACTERS = 16_000_000


@dataclass(frozen=True)
class ShardFiles:
    """What a shard leaves in the work directory; the summary is written last and says that the others are whole."""

    work: Path
    name: str

    @classmethod
    def of(cls, work: Path, shard: Shard) -> "ShardFiles":
        """The files of a shard."""
        return cls(work, f"shard-{shard.index:05d}-{shard.key}")

    @property
    def documents(self) -> Path:
        """Documents that passed the filters, Parquet."""
        return self.work / f"{self.name}.parquet"

    @property
    def keys(self) -> Path:
        """Their deduplication keys."""
        return self.work / f"{self.name}.npz"

    @property
    def summary(self) -> Path:
        """The shard's funnel, JSON."""
        return self.work / f"{self.name}.json"


def curate_shard(shard: Shard, config: CurateConfig, work: Path) -> dict[str, Any]:
    """Curate one shard into the work directory, unless an earlier run did.

    Returns:
        ``documents`` and ``bytes`` read.
    """
    files = ShardFiles.of(work, shard)
    if not files.summary.exists():
        funnel = Funnel(config.samples)
        quarantined: list[dict[str, Any]] = []
        with storage.errors_named(str(work), "write"):
            _write_kept(files, shard, config, funnel, quarantined)
            summary = {"funnel": asdict(funnel), "quarantined": quarantined[:_QUARANTINE_LIMIT]}
            with _replacing(files.summary) as path:
                path.write_text(json.dumps(summary), encoding="utf-8")
    counted = json.loads(files.summary.read_text(encoding="utf-8"))["funnel"]
    return {"documents": counted["documents"], "bytes": counted["raw_bytes"]}


def load_summary(files: ShardFiles) -> tuple[Funnel, list[dict[str, Any]]]:
    """A shard's funnel and what it set aside."""
    summary = json.loads(files.summary.read_text(encoding="utf-8"))
    counted = summary["funnel"]
    counted["dropped"] = {reason: tuple(counts) for reason, counts in counted["dropped"].items()}
    return Funnel(**counted), summary["quarantined"]


def load_keys(files: ShardFiles) -> tuple[Keys, np.ndarray]:
    """A shard's deduplication keys and the bytes of its documents."""
    with np.load(files.keys) as found:
        sizes = found["sizes"]
        keys = Keys(**{name: found[name] for name in (field.name for field in fields(Keys))})
    return keys, sizes


def write_part(files: ShardFiles, index: int, copies: np.ndarray, duplicates: bytes, output: str) -> None:
    """Write a shard's surviving documents and the record of its duplicates to the artifact.

    Args:
        files: The shard's intermediate files.
        index: The shard's number.
        copies: How many documents each stands for; 0 for what was removed: ``[documents]``.
        duplicates: The shard's part of the duplicates record, an Arrow stream.
        output: Payload directory.
    """
    table = pq.read_table(files.documents, schema=SCHEMA)
    kept = table.append_column("copies", pa.array(copies, pa.int64())).filter(pa.array(copies > 0))
    removed = pa.ipc.open_stream(duplicates).read_all()
    for folder, part in (("documents", kept), ("duplicates", removed)):
        if part.num_rows:
            fs, path = storage.arrow_filesystem(storage.join(output, folder, f"part-{index:05d}.parquet"))
            storage.make_directory(storage.join(output, folder))
            with storage.errors_named(path, "write"):
                pq.write_table(part, path, filesystem=fs, compression="zstd", row_group_size=10_000)


def _kept(
    shard: Shard, config: CurateConfig, funnel: Funnel, quarantined: list[dict[str, Any]]
) -> Iterable[dict[str, Any]]:
    for file in shard.files:
        funnel.raw_bytes += file.size
        for found in read_file(file, config):
            if isinstance(found, Quarantined):
                quarantined.append(asdict(found))
                funnel.count(UNREADABLE, 1, found.size)
                continue
            funnel.documents += 1
            size = found.size
            funnel.bytes += size
            if found.encoding != "utf-8":
                funnel.decoded[found.encoding] = funnel.decoded.get(found.encoding, 0) + 1
            row, verdict = judge(found, config)
            if verdict:
                more = {"limit": verdict.limit, "language": row["language"]}
                funnel.drop(verdict.reason, size, found.id, verdict.value, row["text"], **more)
            else:
                # Later steps count what is left by its repaired size: let the difference not fall between them.
                funnel.bytes += len(row["text"].encode()) - size
                yield row
            funnel.repaired += row["text"] != found.text


def judge(document: Document, config: CurateConfig) -> tuple[dict[str, Any], Verdict | None]:
    """Repair a document and apply the rules in order.

    Returns:
        The row to be stored, and the first rule that drops it, if any.
    """
    text = repair(document.text) if config.repair else document.text
    row: dict[str, Any] = {
        "id": document.id, "text": text, "source": document.source, "url": document.url,
        "language": None, "language_score": None,
        "metadata": json.dumps(document.metadata, ensure_ascii=False, default=str) if document.metadata else None,
    }  # fmt: skip
    verdict = filters.length(text, config.length)
    if verdict is None and config.language.enabled:
        row["language"], row["language_score"] = identify(text, config.language)
        verdict = _language(row["language"], row["language_score"], config)
    verdict = (
        verdict
        or filters.c4(text, config.c4)
        or filters.gopher_quality(text, config.gopher_quality)
        or filters.gopher_repetition(text, config.gopher_repetition)
    )
    return row, verdict


def _language(code: str, score: float, config: CurateConfig) -> Verdict | None:
    rule = config.language
    if rule.keep and code not in rule.keep:
        return Verdict("language.keep", score, rule.min_score)
    return Verdict("language.min_score", score, rule.min_score) if score < rule.min_score else None


def _write_kept(
    files: ShardFiles, shard: Shard, config: CurateConfig, funnel: Funnel, quarantined: list[dict[str, Any]]
) -> None:
    """Stream a shard's documents to disk, a batch at a time, so that a large compressed file fits in memory."""
    parts: list[Keys] = []
    sizes: list[int] = []
    with _replacing(files.documents) as path, pq.ParquetWriter(path, SCHEMA, compression="zstd") as writer:
        for batch in _batches(_kept(shard, config, funnel, quarantined)):
            writer.write_table(pa.Table.from_pylist(batch, SCHEMA))
            parts.append(make_keys([row["text"] for row in batch], config.dedup))
            sizes += [len(row["text"].encode()) for row in batch]
    keys = concatenate(parts) if parts else make_keys([], config.dedup)
    columns = {field.name: getattr(keys, field.name) for field in fields(Keys)}
    with _replacing(files.keys) as path, path.open("wb") as file:
        np.savez(file, allow_pickle=False, sizes=np.array(sizes, np.int64), **columns)


def _batches(rows: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    batch: list[dict[str, Any]] = []
    filled = 0
    for row in rows:
        batch.append(row)
        filled += len(row["text"])
        if filled >= _BATCH_CHARACTERS:
            yield batch
            batch, filled = [], 0
    if batch:
        yield batch


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A temporary name that becomes ``path`` at the end, so that a killed task leaves nothing that looks whole."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    yield partial
    os.replace(partial, path)
