"""Whether bundles of resources can be placed on nodes: pure arithmetic, no Ray.

Ray never splits a bundle over nodes. Placing bundles of several shapes is bin packing, which is NP-hard; what is
decided here is one-sided: a request is called impossible only when that is proven.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

Bundle = Mapping[str, float]
"""Resource name to amount: ``CPU`` and ``GPU`` in devices, ``memory`` in bytes."""

# Ray counts resources in ten-thousandths, so sums of floats must not decide.
_UNITS = 10_000
_SEARCH_STEPS = 20_000
_SEARCH_BUNDLES = 48

_Shape = tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Node:
    """A node that is alive."""

    name: str
    total: Bundle
    """Resources it has."""
    available: Bundle = field(default_factory=dict)
    """Resources that are free now."""


@dataclass(frozen=True)
class NodeType:
    """A kind of node that an autoscaler may add."""

    name: str
    resources: Bundle
    more: int | None
    """How many more may come; None: no limit is known."""


def fits(
    bundles: Sequence[Bundle], nodes: Sequence[Node], node_types: Sequence[NodeType] = (), most_new: int | None = None
) -> str | None:
    """Why bundles can never be placed on empty nodes, or None if they can (or it cannot be disproved).

    Args:
        bundles: What is asked for; each must fit on one node.
        nodes: What there is, counted as if nothing ran on it.
        node_types: What may come in addition.
        most_new: How many nodes may come over all types; None: no limit.

    Returns:
        One clause, such as ``no node holds {GPU: 8}``.
    """
    demand = [shape for bundle in bundles if (shape := _shape(bundle))]
    bins = [_amounts(node.total) for node in nodes]
    types = [(_amounts(kind.resources), kind.more) for kind in node_types if kind.more != 0 and most_new != 0]
    for shape in dict.fromkeys(demand):
        if not any(_holds(amounts, shape) for amounts in [*bins, *(amounts for amounts, _ in types)]):
            return f"no node holds {describe(_bundle(shape))}"
    if most_new is None:
        # Each of these can have a new node to itself, so the rest decides.
        endless = [amounts for amounts, more in types if more is None]
        demand = [shape for shape in demand if not any(_holds(amounts, shape) for amounts in endless)]
    limited = [(amounts, most_new if more is None else more) for amounts, more in types if more is not None or most_new]
    short = _shortage(demand, bins, [(amounts, more or 0) for amounts, more in limited], most_new)
    if short is not None:
        return short
    state = _State.of(bins, [(amounts, more or 0) for amounts, more in limited], most_new, len(demand))
    if _greedy(sorted(demand, key=_size, reverse=True), state):
        return None
    if len(set(demand)) > 1 and (len(demand) > _SEARCH_BUNDLES or _search(demand, state) is not False):
        return None
    return "the bundles do not fit together, since each must lie on one node"


def describe(bundle: Bundle) -> str:
    """A bundle as a user reads it: ``{CPU: 2, memory: 4 GiB}``."""
    parts = [f"{name}: {_amount(name, value)}" for name, value in _visible(bundle)]
    return "{" + ", ".join(parts) + "}"


def describe_bundles(bundles: Iterable[Bundle]) -> str:
    """Bundles, equal ones counted: ``4 x {CPU: 2} and 1 x {GPU: 1}``."""
    counts = Counter(describe(bundle) for bundle in bundles)
    return " and ".join(f"{count} x {text}" for text, count in counts.items()) or "nothing"


def describe_nodes(nodes: Sequence[Node], *, free: bool = False) -> str:
    """Nodes, equal ones counted: ``2 nodes with 8 CPU, 31.2 GiB memory``."""
    counts = Counter(_phrase(node.available if free else node.total) for node in nodes)
    parts = [f"{count} node{'s' * (count > 1)} with {text}" for text, count in counts.items()]
    return " and ".join(parts) or "no nodes"


def describe_growth(node_types: Sequence[NodeType], most_new: int | None = None) -> str:
    """What may come: ``3 more 'gpu' nodes with 8 GPU``."""
    parts = [
        f"{'any number of' if kind.more is None else kind.more} more {kind.name!r} nodes with {_phrase(kind.resources)}"
        for kind in node_types
        if kind.more != 0
    ]
    known = [kind.more for kind in node_types]
    redundant = all(more is not None for more in known) and sum(more or 0 for more in known) <= (most_new or 0)
    limit = "" if most_new is None or not parts or redundant else f" (at most {most_new} nodes in all)"
    return (" and ".join(parts) or "nothing more") + limit


def _visible(bundle: Bundle) -> list[tuple[str, float]]:
    """Without zeros and what Ray adds itself (addresses, placement groups); CPU and GPU first."""
    shown = [
        (name, value)
        for name, value in bundle.items()
        if value and not name.startswith(("node:", "object_store_memory")) and "_group_" not in name
    ]
    return sorted(shown, key=lambda item: ({"CPU": 0, "GPU": 1, "memory": 9}.get(item[0], 5), item[0]))


def _phrase(bundle: Bundle) -> str:
    return ", ".join(f"{_amount(name, value)} {name}" for name, value in _visible(bundle)) or "nothing"


def _amount(name: str, value: float) -> str:
    return f"{value / 2**30:.3g} GiB" if name.endswith("memory") else f"{round(value, 4):g}"


def _amounts(bundle: Bundle) -> dict[str, int]:
    return {name: round(value * _UNITS) for name, value in bundle.items()}


def _shape(bundle: Bundle) -> _Shape:
    return tuple(sorted((name, amount) for name, amount in _amounts(bundle).items() if amount > 0))


def _bundle(shape: _Shape) -> dict[str, float]:
    return {name: amount / _UNITS for name, amount in shape}


def _size(shape: _Shape) -> tuple[int, int]:
    return len(shape), sum(amount for name, amount in shape if not name.endswith("memory"))


def _holds(amounts: Mapping[str, int], shape: _Shape) -> bool:
    return all(amounts.get(name, 0) >= amount for name, amount in shape)


def _shortage(
    demand: Sequence[_Shape],
    bins: Sequence[dict[str, int]],
    types: Sequence[tuple[dict[str, int], int]],
    most: int | None,
) -> str | None:
    """A resource of which all nodes together have too little."""
    wanted: Counter[str] = Counter()
    for shape in demand:
        wanted.update(dict(shape))
    for name, amount in wanted.items():
        there = sum(present.get(name, 0) for present in bins)
        new = sorted((kind.get(name, 0) for kind, more in types for _ in range(min(more, len(demand)))), reverse=True)
        there += sum(new if most is None else new[:most])
        if amount > there:
            asked, held = _amount(name, amount / _UNITS), _amount(name, there / _UNITS)
            return f"{asked} {name} asked for in all, at most {held} possible"
    return None


@dataclass(frozen=True)
class _State:
    """Free room: counts of equal open nodes, counts of nodes that may come, and how many of these in all."""

    rooms: tuple[tuple[_Shape, int], ...]
    types: tuple[tuple[_Shape, int], ...]
    most: int

    @staticmethod
    def of(
        bins: Sequence[dict[str, int]], types: Sequence[tuple[dict[str, int], int]], most: int | None, needed: int
    ) -> "_State":
        rooms = Counter(tuple(sorted(amounts.items())) for amounts in bins)
        kinds = tuple((tuple(sorted(amounts.items())), min(more, needed)) for amounts, more in types)
        return _State(tuple(sorted(rooms.items())), kinds, needed if most is None else min(most, needed))

    def places(self, shape: _Shape) -> "list[_State]":
        """Every distinct way to place one bundle: fullest open node first, a new node last."""
        ways = []
        for room, _ in sorted(self.rooms, key=lambda item: sum(amount for _, amount in item[0])):
            if _holds(dict(room), shape):
                ways.append(self._swap(room, _minus(room, shape), self.types, self.most))
        for index, (kind, more) in sorted(enumerate(self.types), key=lambda item: -_copies(item[1][0], shape)):
            if more and self.most and _holds(dict(kind), shape):
                types = (*self.types[:index], (kind, more - 1), *self.types[index + 1 :])
                ways.append(self._swap(None, _minus(kind, shape), types, self.most - 1))
        return ways

    def _swap(self, old: _Shape | None, new: _Shape, types: tuple[tuple[_Shape, int], ...], most: int) -> "_State":
        rooms = Counter(dict(self.rooms))
        if old is not None:
            rooms[old] -= 1
        rooms[new] += 1
        return _State(tuple(sorted((room, count) for room, count in rooms.items() if count)), types, most)


def _minus(room: _Shape, shape: _Shape) -> _Shape:
    taken = dict(shape)
    return tuple((name, amount - taken.get(name, 0)) for name, amount in room)


def _copies(room: _Shape, shape: _Shape) -> int:
    amounts = dict(room)
    return min(amounts.get(name, 0) // amount for name, amount in shape)


def _greedy(demand: Sequence[_Shape], state: _State) -> bool:
    """Best fit, largest first: exact if all bundles are equal."""
    for shape in demand:
        ways = state.places(shape)
        if not ways:
            return False
        state = ways[0]
    return True


def _search(demand: Sequence[_Shape], state: _State) -> bool | None:
    """Exhaustive placement; None if it would take too long to tell."""
    order = sorted(demand, key=_size, reverse=True)
    stack = [(0, state)]
    seen: set[tuple[int, _State]] = set()
    while stack:
        index, current = stack.pop()
        if index == len(order):
            return True
        if (index, current) in seen:
            continue
        seen.add((index, current))
        if len(seen) > _SEARCH_STEPS:
            return None
        stack.extend((index + 1, way) for way in reversed(current.places(order[index])))
    return False
