import random
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tatara.data.dedup.components import find_components, reduce_edges, spread
from tatara.data.dedup.documents import Corpus
from tatara.data.dedup.grouping import Output
from tatara.data.dedup.records import EDGE, SECTIONS, SectionWriter
from tatara.data.dedup.stages import run_stage
from tatara.data.steps import serially

Pairs = list[tuple[int, int]]


def reference(pairs: Pairs) -> dict[int, int]:
    """The smallest member of each node's component, by walking the graph."""
    near: dict[int, list[int]] = {}
    for a, b in pairs:
        near.setdefault(a, []).append(b)
        near.setdefault(b, []).append(a)
    found: dict[int, int] = {}
    for node in sorted(near):
        stack = [] if node in found else [node]
        while stack:
            other = stack.pop()
            if other not in found:
                found[other] = node
                stack += near[other]
    return found


def components(directory: Path, pairs: Pairs, memory: int, parts: int, shards: int = 3) -> tuple[dict[int, int], int]:
    """What the out-of-core way finds, with the edges written by some tasks; and in how many passes."""

    def write(item: dict, output: Path) -> dict:  # type: ignore[type-arg]
        writer = SectionWriter(output, "edges", SECTIONS)
        mine = np.array(pairs[item["part"] :: parts], np.uint64).reshape(-1, 2)
        spread(writer, reduce_edges(mine[:, 0].copy(), mine[:, 1].copy()))
        return {"edges": writer.files}

    results = run_stage(directory / "edges", write, [{"part": part} for part in range(parts)], serially)
    edges = Output.of(directory / "edges", "edges", EDGE, SECTIONS, results)
    corpus = Corpus(directory, tuple(range(shards)), (), tuple(range(shards)), lambda shard: np.ones(1, bool))
    nodes = find_components(edges, corpus, directory / "components", memory, serially)
    found = np.concatenate([np.zeros(0, EDGE), *nodes.read(0, shards)])
    assert len(np.unique(found["first"])) == len(found)
    for shard in range(shards):
        for piece in nodes.read(shard, shard + 1):
            assert (piece["first"] >> np.uint64(40) == shard).all()
    return dict(found.tolist()), len(list((directory / "components").iterdir()))


def far(node: int, shards: int = 3) -> int:
    return (node % shards) << 40 | node


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=80))
def test_union_find_against_walking_the_graph(pairs: Pairs) -> None:
    ends = np.array(pairs, np.uint64).reshape(-1, 2)
    found = reduce_edges(ends[:, 0].copy(), ends[:, 1].copy())
    wanted = {node: root for node, root in reference(pairs).items() if node != root}
    assert dict(found.tolist()) == wanted


@pytest.mark.parametrize("memory", [1 << 30, 50_000])
@settings(max_examples=4)
@given(seed=st.integers(0, 1000))
def test_out_of_core_as_in_memory(tmp_path_factory: pytest.TempPathFactory, memory: int, seed: int) -> None:
    pick = random.Random(seed)
    pairs = [(far(pick.randrange(1500)), far(pick.randrange(1500))) for _ in range(1200)]
    pairs = [(a, b) for a, b in pairs if a != b]
    found, passes = components(tmp_path_factory.mktemp("components"), pairs, memory, parts=5)
    assert found == reference(pairs)
    assert (passes == 1) == (memory > 1 << 20)


def test_a_long_chain(tmp_path: Path) -> None:
    nodes = [far(node) for node in random.Random(0).sample(range(100_000), 20_000)]
    pairs = list(pairwise(nodes))
    random.Random(1).shuffle(pairs)
    found, passes = components(tmp_path, pairs, memory=1_000_000, parts=4)
    assert found == dict.fromkeys(nodes, min(nodes))
    # A turn is two passes; the number of turns grows with the logarithm of the length.
    assert passes <= 2 * 16 + 1


def test_a_chain_of_a_hundred_thousand_in_memory() -> None:
    nodes = np.random.default_rng(0).permutation(100_000).astype(np.uint64)
    found = reduce_edges(nodes[:-1].copy(), nodes[1:].copy())
    assert len(found) == 99_999
    assert not found["second"].any()


def test_one_huge_cluster(tmp_path: Path) -> None:
    # A star around a node that is not the smallest: one key with a hundred thousand edges, read in pieces.
    centre = far(50_000)
    pairs = [(centre, far(node)) for node in range(100_000) if node != 50_000]
    found, _ = components(tmp_path, pairs, memory=2_000_000, parts=3)
    assert found == dict.fromkeys([far(node) for node in range(100_000)], 0)


def test_no_edges(tmp_path: Path) -> None:
    assert components(tmp_path, [], 1 << 30, parts=1)[0] == {}
