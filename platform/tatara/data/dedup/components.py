"""Connected components of a graph that no process holds whole.

Each task reduces its edges to a spanning forest by union-find. What is left is joined in one task or, where it does not
fit, by rounds of large-star and small-star (Kiveris et al. 2014, Connected Components in MapReduce and Beyond), which
turn every component into a star around its smallest document.
"""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from tatara.data.dedup.documents import Corpus
from tatara.data.dedup.grouping import Output, batch_records, plan_sections, within
from tatara.data.dedup.records import EDGE, SECTIONS, Records, SectionWriter, batches, record_array, section_of
from tatara.data.dedup.stages import discard, run_stage
from tatara.data.shingles import mix
from tatara.data.steps import FanOut
from tatara.errors import DataError

_MOST_ROUNDS = 200


def spread(writer: SectionWriter, edges: Records) -> None:
    """Write edges in both directions, each in the section of its first document."""
    both = np.concatenate([edges, record_array(EDGE, first=edges["second"], second=edges["first"])])
    writer.write(both, section_of(mix(np.ascontiguousarray(both["first"]))))


def reduce_edges(first: NDArray[np.uint64], second: NDArray[np.uint64]) -> Records:
    """A star for every component of some edges: (document, smallest document), without the smallest itself."""
    nodes, ends = np.unique(np.concatenate([first, second]), return_inverse=True)
    ends = ends.ravel().astype(np.int64)
    roots = _roots(np.ascontiguousarray(ends[: len(first)]), np.ascontiguousarray(ends[len(first) :]), len(nodes))
    leaves = np.flatnonzero(roots != np.arange(len(nodes)))
    return record_array(EDGE, first=nodes[leaves], second=nodes[roots[leaves]])


@njit("i8[::1](i8[::1], i8[::1], i8)", cache=True, nogil=True)
def _roots(first: NDArray[np.int64], second: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """The smallest member of each element's component: union-find with path halving."""
    parent = np.arange(count)
    for edge in range(len(first)):
        a, b = first[edge], second[edge]
        while parent[a] != a:
            parent[a] = parent[parent[a]]
            a = parent[a]
        while parent[b] != b:
            parent[b] = parent[parent[b]]
            b = parent[b]
        if a < b:
            parent[b] = a
        else:
            parent[a] = b
    for node in range(count):
        # Parents are smaller, so that they are done before.
        parent[node] = parent[parent[node]]
    return parent


def find_components(edges: Output, corpus: Corpus, directory: Path, memory: int, fan_out: FanOut) -> Output:
    """Find the component of every document that has an edge.

    Args:
        edges: Edges in both directions, written with `spread`.
        corpus: The documents.
        directory: Where to work.
        memory: Bytes for one task.
        fan_out: Runs tasks.

    Returns:
        (document, smallest document of its component) for each document once, the smallest itself included, in
        sections by the document's group.
    """
    sizes = edges.sizes()
    most = batch_records(EDGE, memory)
    if int(sizes.sum()) <= most:
        results = run_stage(directory / "joined", partial(_join_task, edges, corpus), [{"task": 0}], fan_out)
        return Output.of(directory / "joined", "nodes", EDGE, corpus.groups, results)
    for turn in range(_MOST_ROUNDS):
        stars = {"large": _large_star, "small": _small_star}
        changed = 0
        for name, star in stars.items():
            here = directory / f"{name}-{turn:03d}"
            tasks = plan_sections(edges.sizes(), most) if not (here / "plan.json").exists() else []
            results = run_stage(here, partial(_star_task, edges, star, most), tasks, fan_out)
            changed += sum(result["changed"] for result in results)
            if turn or name == "small":
                discard(edges.directory)
            edges = Output.of(here, "edges", EDGE, SECTIONS, results)
        if not changed:
            break
    else:
        raise DataError(f"clusters did not settle in {_MOST_ROUNDS} rounds")
    tasks = plan_sections(edges.sizes(), most)
    results = run_stage(directory / "stars", partial(_label_task, edges, corpus, most), tasks, fan_out)
    return Output.of(directory / "stars", "nodes", EDGE, corpus.groups, results)


def _join_task(edges: Output, corpus: Corpus, item: dict[str, Any], output: Path) -> dict[str, Any]:
    found = np.concatenate([np.zeros(0, EDGE), *edges.read(0, SECTIONS)])
    once = found[found["first"] < found["second"]]
    stars = reduce_edges(np.ascontiguousarray(once["first"]), np.ascontiguousarray(once["second"]))
    roots = np.unique(stars["second"])
    writer = SectionWriter(output, "nodes", corpus.groups)
    nodes = np.concatenate([stars, record_array(EDGE, first=roots, second=roots)])
    writer.write(nodes, corpus.group_of(nodes["first"]))
    return {"nodes": writer.files}


def _pieces(edges: Output, item: dict[str, Any], most: int) -> Iterator[Records]:
    def parts() -> Iterator[Records]:
        for piece in edges.read(item["first"], item["last"], most):
            if item["parts"] > 1:
                piece = piece[within(mix(np.ascontiguousarray(piece["first"])), item["part"], item["parts"])]
            yield piece

    return batches(parts(), most)


def _smallest(edges: Output, item: dict[str, Any], most: int) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Every first document of a task's edges, and the smallest among it and what it is linked to."""
    nodes, smallest = np.zeros(0, np.uint64), np.zeros(0, np.uint64)
    for batch in _pieces(edges, item, most):
        nodes = np.concatenate([nodes, batch["first"]])
        smallest = np.concatenate([smallest, np.minimum(batch["first"], batch["second"])])
        order = np.argsort(nodes, kind="stable")
        nodes, smallest = nodes[order], smallest[order]
        starts = np.flatnonzero(np.concatenate(([True], nodes[1:] != nodes[:-1])))
        nodes, smallest = nodes[starts], np.minimum.reduceat(smallest, starts)
    return nodes, smallest


_Star = Callable[
    [NDArray[np.uint64], NDArray[np.uint64], NDArray[np.uint64]], tuple[NDArray[np.uint64], NDArray[np.uint64], int]
]


def _large_star(
    node: NDArray[np.uint64], other: NDArray[np.uint64], smallest: NDArray[np.uint64]
) -> tuple[NDArray[np.uint64], NDArray[np.uint64], int]:
    """Link the larger neighbours of every document to the smallest neighbour."""
    larger = other > node
    return other[larger], smallest[larger], int((smallest[larger] != node[larger]).sum())


def _small_star(
    node: NDArray[np.uint64], other: NDArray[np.uint64], smallest: NDArray[np.uint64]
) -> tuple[NDArray[np.uint64], NDArray[np.uint64], int]:
    """Link every document, and its smaller neighbours, to the smallest of these."""
    smaller = other < node
    node, other, smallest = node[smaller], other[smaller], smallest[smaller]
    moved = other != smallest
    return np.concatenate([node, other[moved]]), np.concatenate([smallest, smallest[moved]]), int(moved.sum())


def _star_task(edges: Output, star: _Star, most: int, item: dict[str, Any], output: Path) -> dict[str, Any]:
    nodes, smallest = _smallest(edges, item, most)
    writer = SectionWriter(output, "edges", SECTIONS)
    changed = 0
    for batch in _pieces(edges, item, most):
        least = smallest[np.searchsorted(nodes, batch["first"])]
        first, second, moved = star(batch["first"], batch["second"], least)
        changed += moved
        spread(writer, reduce_stars(first, second))
    return {"edges": writer.files, "changed": changed}


def reduce_stars(first: NDArray[np.uint64], second: NDArray[np.uint64]) -> Records:
    """Every edge once."""
    order = np.lexsort((second, first))
    first, second = first[order], second[order]
    new = np.ones(len(first), bool)
    new[1:] = (first[1:] != first[:-1]) | (second[1:] != second[:-1])
    return record_array(EDGE, first=first[new], second=second[new])


def _label_task(edges: Output, corpus: Corpus, most: int, item: dict[str, Any], output: Path) -> dict[str, Any]:
    nodes, smallest = _smallest(edges, item, most)
    writer = SectionWriter(output, "nodes", corpus.groups)
    writer.write(record_array(EDGE, first=nodes, second=smallest), corpus.group_of(nodes))
    return {"nodes": writer.files}
