"""The ``curate`` stage: raw files to clean, unique documents, on Ray Data."""

import io
import json
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tatara import storage
from tatara.data import curate_shard as shard_work
from tatara.data.curate import CurateConfig
from tatara.data.curate_shard import DUPLICATE_SCHEMA, SAMPLE_SCHEMA, UNREADABLE_SCHEMA, ShardFiles
from tatara.data.dedup import EXACT, FUZZY, Clusters, concatenate, find_clusters
from tatara.data.funnel import UNREADABLE, Funnel
from tatara.data.read import Shard, plan_shards
from tatara.data.shard_map import map_shards
from tatara.data.sources import corpus_files
from tatara.errors import DataError
from tatara.stage import StageRun

_DOCUMENT_SAMPLES = 8


def run(config: CurateConfig, stage_run: StageRun) -> dict[str, Any]:
    """Curate a corpus.

    Returns:
        Documents and bytes read and kept, and the number set aside as unreadable.

    Raises:
        DataError: Nothing could be read, or nothing is left.
    """
    corpus = corpus_files(config)
    if corpus.skipped:
        skipped = ", ".join(f"{count} {suffix}" for suffix, count in sorted(corpus.skipped.items()))
        stage_run.log(f"skipped files that are no text format: {skipped}")
    shards = plan_shards(corpus.files, config.shard_bytes)
    total = sum(file.size for shard in shards for file in shard.files)
    stage_run.log(
        f"reading {config.corpus}: {len(corpus.files):,} files, {total / 1e6:.1f} MB, in {len(shards)} shards"
    )
    _filter_shards(shards, config, stage_run, total)

    funnel, quarantined = Funnel(config.samples), []
    for shard in shards:
        counted, aside = shard_work.load_summary(ShardFiles.of(stage_run.work, shard))
        funnel.add(counted)
        quarantined += aside
    _check_read(funnel, quarantined, config)

    _deduplicate(shards, config, stage_run, funnel)
    left = funnel.stages()[-1]
    _report(funnel, quarantined, stage_run)
    if not left["documents"]:
        raise DataError(_nothing_left(funnel, config))
    return {
        "documents_read": funnel.documents,
        "bytes_read": funnel.bytes,
        "documents": left["documents"],
        "bytes": left["bytes"],
        "duplicates": sum(funnel.dropped.get(reason, (0, 0))[0] for reason in (EXACT, FUZZY)),
        "unreadable": funnel.dropped.get(UNREADABLE, (0, 0))[0],
    }


def _filter_shards(shards: list[Shard], config: CurateConfig, stage_run: StageRun, total: int) -> None:
    by_index = {shard.index: shard for shard in shards}
    work = stage_run.work

    def task(item: dict[str, Any]) -> dict[str, Any]:
        return shard_work.curate_shard(by_index[item["index"]], config, work)

    done = documents = 0
    stage_run.progress(0, total / 1e6, "MB")
    for result in map_shards(task, [{"index": shard.index} for shard in shards]):
        done += result["bytes"]
        documents += result["documents"]
        stage_run.progress(done / 1e6, total / 1e6, "MB", documents=documents)


def _check_read(funnel: Funnel, quarantined: list[dict[str, Any]], config: CurateConfig) -> None:
    if funnel.documents:
        return
    if quarantined:
        first = quarantined[0]
        place = "" if first["place"] is None else f" at {first['place']}"
        count = funnel.dropped[UNREADABLE][0]
        more = f" (and {count - 1} more like it)" if count > 1 else ""
        raise DataError(
            f"corpus {config.corpus}: nothing could be read; {first['source']}{place}: {first['reason']}{more}"
        )
    raise DataError(f"corpus {config.corpus} is empty: its files hold no documents")


def _nothing_left(funnel: Funnel, config: CurateConfig) -> str:
    """Name the rule that dropped the most, what it measured, and the key that relaxes it."""
    rules = {reason: counts[0] for reason, counts in funnel.dropped.items() if reason != UNREADABLE}
    reason, count = max(rules.items(), key=lambda item: item[1])
    sample: dict[str, Any] = (funnel.samples.get(reason) or [{}])[0]
    example = ""
    if reason == "language.keep" and sample.get("language"):
        example = f" (for example a document in '{sample['language']}')"
    elif sample.get("limit") is not None:
        example = f" (for example {sample['value']:.3g} against {sample['limit']:.3g})"
    return (
        f"corpus {config.corpus}: nothing is left of {funnel.documents:,} documents; {reason} dropped "
        f"{count:,}{example}: relax --{reason}, or turn the rule off with --{reason.split('.')[0]}.enabled false"
    )


def _deduplicate(shards: list[Shard], config: CurateConfig, stage_run: StageRun, funnel: Funnel) -> None:
    """Find copies over all shards, count them, and write what stays."""
    files = [ShardFiles.of(stage_run.work, shard) for shard in shards]
    tables = [pq.read_table(item.documents, columns=["id"]) for item in files]
    ids: list[str] = pa.concat_tables(tables)["id"].to_pylist()
    if not ids:
        return
    loaded = [shard_work.load_keys(item) for item in files]
    keys = concatenate([item for item, _ in loaded])
    sizes = np.concatenate([item for _, item in loaded])
    clusters = find_clusters(keys, ids, config.dedup)
    copies = np.bincount(clusters.kept, minlength=len(ids))
    repeated = len(ids) - len(set(ids))
    if repeated:
        stage_run.log(f"{repeated:,} documents share their id with another one")
    for mask, reason in ((~clusters.fuzzy, EXACT), (clusters.fuzzy, FUZZY)):
        gone = (copies == 0) & mask
        if gone.any():
            funnel.count(reason, int(gone.sum()), int(sizes[gone].sum()))
    _sample_duplicates(clusters, copies, ids, funnel, files, [len(table) for table in tables])

    items = []
    start = 0
    for index, table in enumerate(tables):
        rows = slice(start, start + len(table))
        removed = _duplicates_table(clusters, copies, ids, rows)
        items.append({"index": index, "copies": copies[rows].astype(np.int64).tobytes(), "duplicates": removed})
        start += len(table)
    output = stage_run.output.url

    def task(item: dict[str, Any]) -> None:
        count = np.frombuffer(item["copies"], np.int64)
        shard_work.write_part(files[item["index"]], item["index"], count, item["duplicates"], output)

    for done, _ in enumerate(map_shards(task, items), start=1):
        stage_run.progress(done, len(items), "shards written")


def _duplicates_table(clusters: Clusters, copies: np.ndarray, ids: list[str], rows: slice) -> bytes:
    """A shard's removed documents, with what stands for each, as an Arrow stream."""
    gone = np.flatnonzero(copies[rows] == 0) + rows.start
    table = pa.table(
        {
            "id": [ids[i] for i in gone],
            "reason": [FUZZY if clusters.fuzzy[i] else EXACT for i in gone],
            "kept_id": [ids[clusters.kept[i]] for i in gone],
            "similarity": clusters.similarity[gone],
        },
        schema=DUPLICATE_SCHEMA,
    )
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def _sample_duplicates(
    clusters: Clusters, copies: np.ndarray, ids: list[str], funnel: Funnel, files: list[ShardFiles], counts: list[int]
) -> None:
    """Keep a few removed copies, with their text, as samples."""
    starts = np.concatenate(([0], np.cumsum(counts)))
    for reason, mask in ((EXACT, ~clusters.fuzzy), (FUZZY, clusters.fuzzy)):
        gone = np.flatnonzero((copies == 0) & mask)
        picked = Funnel(funnel.keep)
        for i in gone:
            picked.drop(reason, 0, ids[i], float(clusters.similarity[i]), "", row=int(i), kept_id=ids[clusters.kept[i]])
        for sample in picked.samples.get(reason, []):
            row = sample.pop("row")
            shard = int(np.searchsorted(starts, row, side="right")) - 1
            column = pq.read_table(files[shard].documents, columns=["text"])["text"]
            sample["excerpt"] = column[row - int(starts[shard])].as_py()[:300]
            funnel.samples.setdefault(reason, []).append(sample)


def _report(funnel: Funnel, quarantined: list[dict[str, Any]], stage_run: StageRun) -> None:
    """Print the funnel, store it in the payload, and hand it to the run report."""
    stage_run.log(funnel.table())
    if funnel.repaired or funnel.decoded:
        decoded = ", ".join(f"{count} from {name}" for name, count in sorted(funnel.decoded.items())) or "none"
        stage_run.log(f"text repaired in {funnel.repaired:,} documents; decoded from another encoding: {decoded}")
    literals = funnel.literals()
    samples = [{"reason": reason, **sample} for reason, found in sorted(funnel.samples.items()) for sample in found]
    output = stage_run.output.url
    storage.write_bytes(storage.join(output, "funnel.json"), json.dumps(literals, indent=1).encode())
    _write_rows(storage.join(output, "dropped", "samples.parquet"), samples, SAMPLE_SCHEMA)
    _write_rows(storage.join(output, "dropped", "unreadable.parquet"), quarantined, UNREADABLE_SCHEMA)
    if quarantined:
        first = quarantined[0]
        stage_run.log(
            f"unreadable, for example {first['source']}: {first['reason']} (all in dropped/unreadable.parquet)"
        )
    stage_run.report("funnel", literals)
    stage_run.report("dropped_samples", samples)
    stage_run.report("document_samples", _document_samples(output))


def _write_rows(url: str, rows: list[dict[str, Any]], schema: pa.Schema) -> None:
    if rows:
        sink = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(rows, schema), sink, compression="zstd")
        storage.write_bytes(url, sink.getvalue())


def _document_samples(output: str) -> list[dict[str, Any]]:
    parts = storage.list_files(storage.join(output, "documents"))
    if not parts:
        return []
    step = max(1, len(parts) // _DOCUMENT_SAMPLES)
    samples = []
    for part in parts[::step][:_DOCUMENT_SAMPLES]:
        fs, path = storage.arrow_filesystem(part.url)
        row = (
            pq.read_table(path, filesystem=fs, columns=["id", "text", "source", "language"]).slice(0, 1).to_pylist()[0]
        )
        samples.append({**{k: row[k] for k in ("id", "source", "language")}, "excerpt": row["text"][:300]})
    return samples
