"""The lineage graph as SVG: layers from the raw sources to the endpoint, left to right and top to bottom."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from tatara.tracking.markup import Markup, join, short, size, tag
from tatara.tracking.record import Lineage, LineageEdge, LineageNode

BOX = {"across": (158.0, 86.0), "down": (290.0, 86.0)}
GAP = {"across": (44.0, 22.0), "down": (42.0, 22.0)}
"""Between layers, between the nodes of a layer."""
WIDEST = 1220.0
"""Beyond this the graph is only drawn top to bottom."""


@dataclass(frozen=True)
class _Slot:
    """A place in a layer: a node, or a bend of an edge that passes the layer (``node`` is ``None``)."""

    id: str
    node: LineageNode | None


def fold(lineage: Lineage, limit: int) -> Lineage:
    """Replace the surplus of source nodes by one node that counts them."""
    surplus = len(lineage.nodes) - limit
    if surplus <= 0:
        return lineage
    made = {edge.target for edge in lineage.edges}
    sources = [node for node in lineage.nodes if node.id not in made]
    folded = sources[max(0, len(sources) - surplus - 1) :]
    if len(folded) < 2:
        return lineage
    gone = {node.id for node in folded}
    sizes = [node.bytes for node in folded if node.bytes is not None]
    rest = LineageNode(
        id="\0rest", label=f"{len(folded):,} more", kind="source", bytes=sum(sizes) if len(sizes) == len(folded) else None
    )
    edges = dict.fromkeys(replace(edge, source=rest.id) if edge.source in gone else edge for edge in lineage.edges)
    return Lineage((*(node for node in lineage.nodes if node.id not in gone), rest), tuple(edges))


def lineage_figure(lineage: Lineage) -> Markup:
    """Draw the graph; the page shows the layout that fits the screen."""
    layers, edges = _layers(lineage)
    across, down = _draw(layers, edges, "across"), _draw(layers, edges, "down")
    label = describe(lineage)
    parts = []
    if across[0] <= WIDEST:
        parts.append(tag("div", _svg(across, label), class_="graph across"))
    scroll = {"tabindex": "0", "role": "group", "aria_label": "Lineage graph"}
    parts.append(tag("div", _svg(down, label), class_="graph down" + ("" if parts else " only"), **scroll))
    return join(parts)


def describe(lineage: Lineage) -> str:
    """The graph in words."""
    names = {node.id: _title(node) for node in lineage.nodes}
    made: dict[str, list[str]] = defaultdict(list)
    for edge in lineage.edges:
        if edge.source in names and edge.target in names:
            made[edge.target].append(names[edge.source])
    if not made:
        return f"Lineage: {', '.join(names.values())}."
    return "Lineage: " + "; ".join(f"{names[target]} is made from {', '.join(made[target])}" for target in made) + "."


def _title(node: LineageNode) -> str:
    return f"{node.kind} {node.label}" + (f"@{node.version}" if node.version is not None else "")


def _ranks(nodes: Mapping[str, LineageNode], edges: Sequence[LineageEdge]) -> dict[str, int]:
    """Longest path from a source; an edge that would close a cycle does not count."""
    parents: dict[str, list[str]] = defaultdict(list)
    for edge in edges:
        parents[edge.target].append(edge.source)
    ranks: dict[str, int] = {}
    for start in nodes:
        stack, open_nodes = [start], set()
        while stack:
            current = stack[-1]
            open_nodes.add(current)
            waiting = [p for p in parents[current] if p not in ranks and p not in open_nodes]
            if waiting and current not in ranks:
                stack.append(waiting[0])
                continue
            stack.pop()
            open_nodes.discard(current)
            ranks.setdefault(current, 1 + max((ranks[p] for p in parents[current] if p in ranks), default=-1))
    return ranks


def _layers(lineage: Lineage) -> tuple[list[list[_Slot]], list[tuple[str, str]]]:
    """Assign nodes to layers, put bends where an edge passes a layer, and order each layer to avoid crossings."""
    nodes = {node.id: node for node in lineage.nodes}
    edges = [e for e in lineage.edges if e.source in nodes and e.target in nodes and e.source != e.target]
    ranks = _ranks(nodes, edges)
    layers: list[list[_Slot]] = [[] for _ in range(1 + max(ranks.values(), default=0))]
    for node in lineage.nodes:
        layers[ranks[node.id]].append(_Slot(node.id, node))
    links: list[tuple[str, str]] = []
    for edge in edges:
        previous = edge.source
        for rank in range(ranks[edge.source] + 1, ranks[edge.target]):
            bend = f"\0{edge.source}\0{edge.target}\0{rank}"
            layers[rank].append(_Slot(bend, None))
            links.append((previous, bend))
            previous = bend
        links.append((previous, edge.target))
    for sweep in range(4):
        neighbours: dict[str, list[str]] = defaultdict(list)
        for source, target in links:
            neighbours[target if sweep % 2 == 0 else source].append(source if sweep % 2 == 0 else target)
        order = range(1, len(layers)) if sweep % 2 == 0 else range(len(layers) - 2, -1, -1)
        for rank in order:
            place = {slot.id: i for layer in layers for i, slot in enumerate(layer)}
            centre = {
                slot.id: sum(place[n] for n in near) / len(near) if (near := neighbours[slot.id]) else place[slot.id]
                for slot in layers[rank]
            }
            layers[rank].sort(key=lambda slot: centre[slot.id])
    return layers, links


def _draw(
    layers: Sequence[Sequence[_Slot]], links: Sequence[tuple[str, str]], way: str
) -> tuple[float, float, Markup]:
    """Place boxes and edges; returns width, height and content."""
    width, height = BOX[way]
    layer_gap, node_gap = GAP[way]
    across = way == "across"
    depth, breadth = (width, height) if across else (height, width)

    def thickness(slot: _Slot) -> float:
        return breadth if slot.node else 14.0

    totals = [sum(map(thickness, layer)) + node_gap * (len(layer) - 1) for layer in layers]
    extent = max(totals, default=0.0)
    corner: dict[str, tuple[float, float]] = {}
    boxes = []
    for rank, layer in enumerate(layers):
        offset = (extent - totals[rank]) / 2
        along = rank * (depth + layer_gap)
        for slot in layer:
            corner[slot.id] = (along, offset)
            if slot.node:
                boxes.append(_box(slot.node, *((along, offset) if across else (offset, along)), width, height))
            offset += thickness(slot) + node_gap
    solid = {slot.id for layer in layers for slot in layer if slot.node}
    wires = []
    for source, target in links:
        (from_along, from_offset), (to_along, to_offset) = corner[source], corner[target]
        start = (from_along + depth, from_offset + (breadth if source in solid else 14.0) / 2)
        end = (to_along, to_offset + (breadth if target in solid else 14.0) / 2)
        wires.append(_wire(start, end, across, arrow=target in solid))
        if target not in solid:
            wires.append(_wire(end, (end[0] + depth, end[1]), across, arrow=False))
    length = len(layers) * depth + (len(layers) - 1) * layer_gap
    return *((length, extent) if across else (extent, length)), join(wires, boxes)


def _wire(start: tuple[float, float], end: tuple[float, float], across: bool, *, arrow: bool) -> Markup:
    end = (end[0] - (7 if arrow else 0), end[1])
    middle = (start[0] + end[0]) / 2
    points = [start, (middle, start[1]), (middle, end[1]), end]
    (a, b, c, d) = [f"{short(p if across else q)} {short(q if across else p)}" for p, q in points]
    x, y = (end if across else (end[1], end[0]))
    tip = f"M{short(x)} {short(y - 4)}l7 4l-7 4z" if across else f"M{short(x - 4)} {short(y)}l4 7l4 -7z"
    return join(tag("path", d=f"M{a}C{b} {c} {d}", class_="wire"), tag("path", d=tip, class_="tip") if arrow else None)


def _box(node: LineageNode, x: float, y: float, width: float, height: float) -> Markup:
    room = int((width - 26) / 7.4)
    name = node.label if node.version is None else f"{node.label}@{node.version}"
    facts = " · ".join(part for part in (size(node.bytes) if node.bytes is not None else "", node.detail) if part)
    kind_class = node.kind if node.kind in ("source", "endpoint") else "artifact"
    full = "\n".join(part for part in (_title(node), node.fingerprint or "", facts) if part)
    return tag(
        "g",
        tag("title", full),
        tag("rect", width=width, height=height, rx=8, class_="box"),
        tag("rect", width=4, height=height - 20, x=0, y=10, rx=2, class_="stripe"),
        tag("text", _fit(node.kind, room), x=16, y=22, class_="node-kind"),
        tag("text", _fit(name, room, keep_end=True), x=16, y=41, class_="node-name"),
        tag("text", node.fingerprint[:12], x=16, y=59, class_="node-print") if node.fingerprint else None,
        tag("text", _fit(facts, room + 2), x=16, y=76 if node.fingerprint else 61, class_="node-facts"),
        transform=f"translate({short(x)} {short(y)})",
        class_=f"node node-{kind_class}",
    )


def _fit(text: str, characters: int, *, keep_end: bool = False) -> str:
    """Cut a label in the middle (``keep_end``: its version says most) or at the end."""
    if len(text) <= characters:
        return text
    if keep_end:
        head = (characters - 1) // 2
        return f"{text[:head]}…{text[-(characters - 1 - head) :]}"
    return text[: characters - 1] + "…"


def _svg(drawing: tuple[float, float, Markup], label: str) -> Markup:
    width, height, content = drawing
    return tag(
        "svg",
        content,
        viewBox=f"-2 -2 {short(width + 4)} {short(height + 4)}",
        width=short(width + 4),
        height=short(height + 4),
        role="img",
        aria_label=label,
    )
