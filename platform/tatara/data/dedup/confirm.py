"""Which pairs of documents have signatures that agree enough; signatures travel to the pairs, a group at a time."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from tatara.data.dedup.candidates import unique_pairs
from tatara.data.dedup.components import reduce_edges, spread
from tatara.data.dedup.documents import Corpus, by_shard
from tatara.data.dedup.grouping import Output, batch_records
from tatara.data.dedup.records import EDGE, SECTIONS, SectionWriter, batches, node_of, position_of, shard_of
from tatara.data.dedup.signatures import leaders_of, twin_edges
from tatara.data.dedup.stages import run_stage
from tatara.data.steps import FanOut


class Signatures:
    """The signatures of some shards, in memory."""

    def __init__(self, corpus: Corpus, numbers: list[int], permutations: int) -> None:
        tables = [corpus.table(number) for number in numbers]
        self._numbers = np.array(numbers, np.int64)
        self._starts = np.cumsum([0, *map(len, tables)])
        self.values = np.empty((int(self._starts[-1]), permutations), np.uint16)
        for table, start in zip(tables, self._starts.tolist(), strict=False):
            found = np.fromfile(table.directory / "signatures", np.uint16).reshape(-1, permutations)
            self.values[start : start + len(found)] = found

    def places(self, nodes: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Where documents are in `values`."""
        return self._starts[np.searchsorted(self._numbers, shard_of(nodes))] + position_of(nodes)


def signatures_of(permutations: int, corpus: Corpus, nodes: NDArray[np.uint64]) -> NDArray[np.uint16]:
    """Signatures of some documents, read from their shards: ``[documents, permutations]``."""
    found = np.empty((len(nodes), permutations), np.uint16)
    for number, places, positions in by_shard(nodes):
        table = corpus.table(number)
        values = np.memmap(table.directory / "signatures", np.uint16, "r").reshape(-1, permutations)
        found[places] = values[positions]
    return found


def agreement(first: NDArray[np.uint16], second: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Estimated Jaccard similarity of documents, pair by pair, from signatures: ``[pairs]``."""
    return (first == second).mean(axis=1, dtype=np.float32)


@njit("b1[::1](u2[:,::1], u2[:,::1], i8[::1], i8[::1], i8)", cache=True, nogil=True)
def _agree(
    ours: NDArray[np.uint16],
    theirs: NDArray[np.uint16],
    first: NDArray[np.int64],
    second: NDArray[np.int64],
    needed: int,
) -> NDArray[np.bool_]:
    width = ours.shape[1]
    found = np.empty(len(first), np.bool_)
    for pair in range(len(first)):
        a, b = first[pair], second[pair]
        same = 0
        for place in range(width):
            same += ours[a, place] == theirs[b, place]
        found[pair] = same >= needed
    return found


def confirm(
    pairs: Output, corpus: Corpus, directory: Path, permutations: int, needed: int, memory: int, fan_out: FanOut
) -> Output:
    """Keep the pairs whose signatures agree in ``needed`` components; and add the twins of every shard.

    Signatures are brought to the pairs: first those of the first documents, by the group that these are in, then the
    others'. With one group both are at hand.

    Returns:
        Edges of a spanning forest of each task's pairs, spread for `find_components`.
    """
    groups = [{"group": group} for group in range(corpus.groups)]
    most = batch_records(EDGE, memory // 4)
    joined: Output | None = None
    if corpus.groups > 1:
        most = batch_records(_with_signature(permutations), memory // 2)
        task = partial(_attach_task, pairs, corpus, permutations, most)
        results = run_stage(directory / "attached", task, groups, fan_out)
        dtype = _with_signature(permutations)
        joined = Output.of(directory / "attached", "pairs", dtype, corpus.groups, results)
    task = partial(_confirm_task, joined or pairs, corpus, permutations, needed, most)
    results = run_stage(directory / "confirmed", task, groups, fan_out)
    return Output.of(directory / "confirmed", "edges", EDGE, SECTIONS, results)


def _with_signature(permutations: int) -> np.dtype[Any]:
    return np.dtype([("first", "<u8"), ("second", "<u8"), ("signature", "<u2", (permutations,))])


def _attach_task(
    pairs: Output, corpus: Corpus, permutations: int, most: int, item: dict[str, Any], output: Path
) -> dict[str, Any]:
    group = item["group"]
    signatures = Signatures(corpus, corpus.group(group), permutations)
    writer = SectionWriter(output, "pairs", corpus.groups)
    for batch in batches(pairs.read(group, group + 1, most), most):
        once = unique_pairs(batch["first"], batch["second"])
        made = np.empty(len(once), _with_signature(permutations))
        made["first"], made["second"] = once["first"], once["second"]
        made["signature"] = signatures.values[signatures.places(once["first"])]
        writer.write(made, corpus.group_of(once["second"]))
    return {"pairs": writer.files}


def _confirm_task(
    pairs: Output, corpus: Corpus, permutations: int, needed: int, most: int, item: dict[str, Any], output: Path
) -> dict[str, Any]:
    group = item["group"]
    numbers = corpus.group(group)
    signatures = Signatures(corpus, numbers, permutations)
    writer = SectionWriter(output, "edges", SECTIONS)
    candidates = 0
    for batch in batches(pairs.read(group, group + 1, most), most):
        if "signature" in (batch.dtype.names or ()):
            theirs = batch["signature"].copy()
            places = np.arange(len(batch))
        else:
            batch = unique_pairs(batch["first"], batch["second"])
            theirs = signatures.values
            places = signatures.places(batch["first"])
        good = _agree(theirs, signatures.values, places, signatures.places(batch["second"]), needed)
        candidates += len(batch)
        spread(
            writer,
            reduce_edges(np.ascontiguousarray(batch["first"][good]), np.ascontiguousarray(batch["second"][good])),
        )
    for number in numbers:
        table = corpus.table(number)
        if table.meta.get("twins"):
            leaders = leaders_of(table.directory, len(table), corpus.living(number, table))
            twins, leading = twin_edges(table.directory, leaders)
            spread(writer, reduce_edges(node_of(number, leading), node_of(number, twins)))
    return {"edges": writer.files, "candidates": candidates}
