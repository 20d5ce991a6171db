"""Placement of bundles against a brute-force search."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tatara.cluster.packing import Node, NodeType, describe_bundles, describe_growth, describe_nodes, fits

GIB = 2**30
BUNDLES = st.fixed_dictionaries(
    {},
    optional={
        "CPU": st.sampled_from([0.0, 0.5, 1.0, 1.5, 2.0, 3.0]),
        "GPU": st.sampled_from([0.0, 0.1, 0.5, 1.0, 2.0]),
    },
)
ROOMS = st.fixed_dictionaries(
    {},
    optional={
        "CPU": st.sampled_from([1.0, 2.0, 3.0, 4.0]),
        "GPU": st.sampled_from([0.3, 1.0, 2.0]),
        "memory": st.just(GIB),
    },
)
NODES = st.lists(ROOMS, max_size=3).map(lambda rooms: [Node(f"n{i}", room) for i, room in enumerate(rooms)])
TYPES = st.lists(st.tuples(ROOMS, st.sampled_from([0, 1, 2, None])), max_size=2).map(
    lambda kinds: [NodeType(f"t{i}", room, more) for i, (room, more) in enumerate(kinds)]
)


def possible(bundles, nodes, node_types, most_new) -> bool:
    """Try every assignment of bundles to nodes, each type opened as often as it may be."""
    rooms = [dict(node.total) for node in nodes]
    old = len(rooms)
    for kind in node_types:
        count = len(bundles) if kind.more is None else min(kind.more, len(bundles))
        rooms += [dict(kind.resources) for _ in range(count)]
    for choice in itertools.product(range(len(rooms)), repeat=len(bundles)):
        if most_new is not None and len({index for index in choice if index >= old}) > most_new:
            continue
        used: dict[tuple[int, str], float] = {}
        for index, bundle in zip(choice, bundles, strict=True):
            for name, amount in bundle.items():
                used[index, name] = used.get((index, name), 0.0) + amount
        if all(amount <= rooms[index].get(name, 0.0) + 1e-9 for (index, name), amount in used.items()):
            return True
    return not [bundle for bundle in bundles if any(bundle.values())]


@settings(max_examples=400, deadline=None)
@given(st.lists(BUNDLES, max_size=4), NODES, TYPES, st.sampled_from([None, 0, 1, 2]))
def test_verdict_equals_brute_force(bundles, nodes, node_types, most_new):
    verdict = fits(bundles, nodes, node_types, most_new)
    assert (verdict is None) == possible(bundles, nodes, node_types, most_new), verdict


@given(st.lists(BUNDLES, max_size=12), NODES, TYPES)
def test_more_room_never_hurts(bundles, nodes, node_types):
    if fits(bundles, nodes, node_types) is None:
        assert fits(bundles, [*nodes, Node("more", {"CPU": 1.0})], node_types) is None
        assert fits(bundles[1:], nodes, node_types) is None


def test_what_greedy_placement_misses_is_found():
    """Largest first into the fullest node that holds it wastes a node here: 4+3+3 | 5+5 needs a search."""
    nodes = [Node("a", {"CPU": 10, "x": 2}), Node("b", {"CPU": 10, "x": 1})]
    bundles = [{"CPU": 5, "x": 1}, {"CPU": 5}, {"CPU": 4, "x": 1}, {"CPU": 3, "x": 1}, {"CPU": 3}]
    assert fits(bundles, nodes) is None
    assert fits([*bundles[:-1], {"CPU": 3, "x": 1}], nodes) is not None


def test_large_uniform_requests_are_decided_exactly():
    nodes = [Node(str(index), {"CPU": 96, "GPU": 8}) for index in range(1000)]
    assert fits([{"CPU": 12, "GPU": 1}] * 8000, nodes) is None
    assert "8001 GPU asked for in all, at most 8000 possible" in str(fits([{"CPU": 11, "GPU": 1}] * 8001, nodes))
    # 96 CPUs hold seven bundles of 13, so the totals suffice but the nodes do not.
    assert fits([{"CPU": 13}] * 7000, nodes) is None
    assert fits([{"CPU": 13}] * 7001, nodes) == "the bundles do not fit together, since each must lie on one node"


@pytest.mark.parametrize(
    ("bundles", "node_types", "reason"),
    [
        ([{"GPU": 1}], [], "no node holds {GPU: 1}"),
        ([{"CPU": 3}], [], "no node holds {CPU: 3}"),
        ([{"memory": 8 * GIB}], [], "no node holds {memory: 8 GiB}"),
        ([{"CPU": 1}] * 3, [], "3 CPU asked for in all, at most 2 possible"),
        ([{"CPU": 1}] * 9, [NodeType("worker", {"CPU": 2}, 3)], "9 CPU asked for in all, at most 8 possible"),
        ([{"CPU": 0.4}] * 5, [], None),
        ([{"CPU": 1}] * 8, [NodeType("worker", {"CPU": 2}, 3)], None),
        ([{"GPU": 8}] * 100, [NodeType("worker", {"GPU": 8}, None)], None),
    ],
)
def test_reasons(bundles, node_types, reason):
    assert fits(bundles, [Node("head", {"CPU": 2, "memory": 4 * GIB})], node_types) == reason


def test_fractions_add_up_as_ray_counts_them():
    assert fits([{"CPU": 0.1}] * 10, [Node("a", {"CPU": 1})]) is None
    assert fits([{"CPU": 0.1}] * 11, [Node("a", {"CPU": 1})]) is not None


def test_descriptions_count_equal_things_and_hide_what_ray_adds():
    room = {"node:10.0.0.1": 1.0, "CPU": 8.0, "memory": 32 * GIB, "object_store_memory": GIB, "CPU_group_0_ab": 1.0}
    assert describe_nodes([Node("a", room), Node("b", room)]) == "2 nodes with 8 CPU, 32 GiB memory"
    assert describe_bundles([{"GPU": 1, "CPU": 2}] * 4 + [{"CPU": 1}]) == "4 x {CPU: 2, GPU: 1} and 1 x {CPU: 1}"
    kinds = [NodeType("gpu", {"GPU": 8}, 3), NodeType("full", {"CPU": 1}, 0)]
    assert describe_growth(kinds, 2) == "3 more 'gpu' nodes with 8 GPU (at most 2 nodes in all)"
    assert describe_growth([], None) == "nothing more"
