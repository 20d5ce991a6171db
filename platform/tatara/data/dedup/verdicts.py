"""From members of clusters to verdicts by shard: ids of the documents that stay travel to those that go."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from tatara.data.dedup.documents import Corpus, by_shard
from tatara.data.dedup.grouping import FIRST_EARLIER, Output, batch_records
from tatara.data.dedup.records import (
    MEMBER,
    Records,
    SectionFile,
    SectionWriter,
    batches,
    position_of,
    record_array,
)
from tatara.data.dedup.stages import run_stage, task_directory
from tatara.data.document import Document, Verdict
from tatara.data.steps import FanOut, Verdicts

Features = Callable[[Corpus, NDArray[np.uint64]], NDArray[Any]]
"""What is compared of documents, such as signatures: ``[documents, ...]``."""
Similarity = Callable[[NDArray[Any], NDArray[Any]], NDArray[np.float32]]
"""How similar documents are, pair by pair."""
_STAYS, _GOES, _GOES_FOR_EARLIER = 0, 1, 2
_NAMED = np.dtype([("node", "<u8"), ("name", "<u8"), ("copies", "<u8"), ("fate", "u1")])


def write_verdicts(
    members: Output,
    corpus: Corpus,
    directory: Path,
    memory: int,
    fan_out: FanOut,
    like: tuple[Features, Similarity] | None,
) -> dict[str, int]:
    """Write every shard's verdicts.

    Args:
        members: The clusters' documents, in sections by the group of the one that stays.
        corpus: The documents.
        directory: Where to work; verdicts end up in ``verdicts`` in it.
        memory: Bytes for one task.
        fan_out: Runs tasks.
        like: How to measure similarity to the document that stays; None where it is 1.

    Returns:
        How many documents go, how many clusters there are, and the largest.
    """
    groups = [{"group": group} for group in range(corpus.groups)]
    most = batch_records(MEMBER, memory // 4)
    named = directory / "named"
    results = run_stage(named, partial(_name, members, corpus, most, like), groups, fan_out)
    output = Output.of(named, "members", _NAMED, corpus.groups, results)
    counts = run_stage(directory / "verdicts", partial(_write, output, corpus, like), groups, fan_out)
    return {
        "removed": sum(count["removed"] for count in counts),
        "clusters": sum(count["clusters"] for count in counts),
        "matched_earlier": sum(count["earlier"] for count in counts),
        "largest_cluster": max((count["largest"] for count in counts), default=0),
    }


def _name(
    members: Output,
    corpus: Corpus,
    most: int,
    like: tuple[Features, Similarity] | None,
    item: dict[str, Any],
    output: Path,
) -> dict[str, Any]:
    writer = SectionWriter(output, "members", corpus.groups)
    for batch in batches(members.read(item["group"], item["group"] + 1, most), most):
        kept, names = np.unique(batch["kept"], return_inverse=True)
        ids: list[bytes] = [b""] * len(kept)
        for shard, places, positions in by_shard(kept):
            for place, name in zip(places.tolist(), corpus.table(shard).ids(positions), strict=True):
                ids[place] = name
        known = {"bounds": np.cumsum([0, *map(len, ids)]), "ids": np.frombuffer(b"".join(ids), np.uint8)}
        if like:
            known["features"] = like[0](corpus, kept)
        with (output / f"kept-{writer.files:04d}.npz").open("wb") as stream:
            np.savez(stream, **known)  # type: ignore[arg-type]
        fate = np.where(batch["node"] == batch["kept"], _STAYS, _GOES)
        fate[batch["kept"] >= FIRST_EARLIER] = _GOES_FOR_EARLIER
        named = record_array(_NAMED, node=batch["node"], name=names.ravel(), copies=batch["copies"], fate=fate)
        writer.write(named, corpus.group_of(batch["node"]))
    return {"members": writer.files}


def _write(
    named: Output, corpus: Corpus, like: tuple[Features, Similarity] | None, item: dict[str, Any], output: Path
) -> dict[str, Any]:
    parts: dict[int, list[tuple[Records, NDArray[np.float32], list[bytes]]]] = {}
    for task, files in enumerate(named.files):
        for index in range(files):
            directory = task_directory(named.directory, task)
            file = SectionFile(directory / f"members-{index:04d}", named.dtype, named.count)
            for records in file.read(item["group"], item["group"] + 1):
                _add_named(parts, records, np.load(directory / f"kept-{index:04d}.npz"), corpus, like)
    counts = {"removed": 0, "clusters": 0, "earlier": 0, "largest": 0}
    for shard, found in parts.items():
        _write_shard(output / f"{shard:06d}.npz", corpus, shard, found, counts)
    return counts


def _add_named(
    parts: dict[int, list[tuple[Records, NDArray[np.float32], list[bytes]]]],
    records: Records,
    kept: Any,
    corpus: Corpus,
    like: tuple[Features, Similarity] | None,
) -> None:
    bounds, blob = kept["bounds"], kept["ids"].tobytes()
    similarity = np.ones(len(records), np.float32)
    if like:
        theirs = kept["features"]
        step = 65_536
        for start in range(0, len(records), step):
            piece = records[start : start + step]
            mine = like[0](corpus, piece["node"])
            similarity[start : start + step] = like[1](mine, theirs[piece["name"].astype(np.int64)])
    for shard, places, _ in by_shard(records["node"]):
        mine_of_shard = records[places]
        ids = [blob[bounds[name] : bounds[name + 1]] for name in mine_of_shard["name"].tolist()]
        parts.setdefault(shard, []).append((mine_of_shard, similarity[places], ids))


def _write_shard(path: Path, corpus: Corpus, shard: int, found: Sequence[Any], counts: dict[str, int]) -> None:
    records = np.concatenate([each[0] for each in found])
    similarity = np.concatenate([each[1] for each in found])
    ids = [name for each in found for name in each[2]]
    order = np.argsort(records["node"], kind="stable")
    records, similarity = records[order], similarity[order]
    unique = sorted(set(ids))
    place = {name: index for index, name in enumerate(unique)}
    rows = corpus.table(shard).documents["row"][position_of(records["node"])]
    with path.open("wb") as stream:
        np.savez(
            stream,
            rows=rows,
            copies=records["copies"],
            fate=records["fate"],
            similarity=similarity,
            name=np.array([place[ids[index]] for index in order.tolist()], np.int64),
            bounds=np.cumsum([0, *map(len, unique)]),
            ids=np.frombuffer(b"".join(unique), np.uint8),
        )
    counts["removed"] += int((records["fate"] != _STAYS).sum())
    counts["clusters"] += int((records["fate"] == _STAYS).sum())
    counts["earlier"] += int((records["fate"] == _GOES_FOR_EARLIER).sum())
    largest = int(records["copies"][records["fate"] == _STAYS].max(initial=0))
    counts["largest"] = max(counts["largest"], largest + 1 if largest else 0)


class ShardVerdicts:
    """The verdicts of one shard."""

    def __init__(self, directory: Path, group: int, shard: int) -> None:
        path = task_directory(directory / "verdicts", group) / f"{shard:06d}.npz"
        self._found = dict(np.load(path)) if path.exists() else {}

    def removed(self, rows: int) -> NDArray[np.bool_]:
        """Which of the shard's rows go: ``[rows]``."""
        gone = np.zeros(rows, bool)
        if self._found:
            gone[self._found["rows"][self._found["fate"] != _STAYS]] = True
        return gone

    def gained(self, rows: int) -> NDArray[np.int64]:
        """How many copies each of the shard's rows stands for now, besides those it stood for before: ``[rows]``."""
        gained = np.zeros(rows, np.int64)
        if self._found:
            stays = self._found["fate"] == _STAYS
            gained[self._found["rows"][stays]] = self._found["copies"][stays]
        return gained

    def judge(self, reason: str, earlier_reason: str, limit: float | None) -> Callable[[Sequence[Document]], Verdicts]:
        """A function that hands down the verdicts, and marks what stays with its copies and cluster."""
        if not self._found:
            return lambda documents: [None] * len(documents)
        place = {row: index for index, row in enumerate(self._found["rows"].tolist())}
        fates, copies = self._found["fate"].tolist(), self._found["copies"].tolist()
        similarities, names = self._found["similarity"].tolist(), self._found["name"].tolist()
        bounds, blob = self._found["bounds"].tolist(), self._found["ids"].tobytes()

        def verdict(document: Document) -> Verdict | None:
            index = place.get(document.row)
            if index is None:
                return None
            name = blob[bounds[names[index]] : bounds[names[index] + 1]]
            cluster = f"{xxhash.xxh3_64_intdigest(name):016x}"
            if fates[index] == _STAYS:
                document.copies += copies[index]
                document.cluster = cluster
                return None
            kept = name.decode("utf-8", errors="surrogatepass")
            why = earlier_reason if fates[index] == _GOES_FOR_EARLIER else reason
            value = None if limit is None else round(similarities[index], 4)
            return Verdict(why, value, limit, kept, cluster)

        return lambda documents: [verdict(document) for document in documents]


def group_of_shard(starts: Sequence[int], shard: int) -> int:
    """The group that a shard's verdicts were written by."""
    return int(np.searchsorted(np.array(starts, np.int64), shard, "right")) - 1
