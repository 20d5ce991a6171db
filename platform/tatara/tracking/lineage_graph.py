"""The lineage graph as SVG: layers from the raw sources to the endpoint, left to right and top to bottom."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from tatara.tracking.markup import Markup, join, short, size, tag
from tatara.tracking.record import Lineage, LineageEdge, LineageNode

Drawing = tuple[float, float, Markup]
"""Width, height and content."""
ACROSS_WIDTH = 158.0
DOWN_WIDTH = 324.0
BOX_HEIGHT = 86.0
BEND_HEIGHT = 14.0
LAYER_GAP = 30.0
ROW_GAP = 20.0
WIDEST = 1220.0
"""Beyond this the graph is only drawn top to bottom."""


@dataclass(frozen=True)
class _Slot:
    """A place in a layer: a node, or a bend of an edge that passes the layer (``node`` is ``None``)."""

    id: str
    node: LineageNode | None


def fold(lineage: Lineage, limit: int) -> Lineage:
    """Where more than ``limit`` raw sources go into the same artifacts, put one node for those beyond."""
    targets: dict[str, set[str]] = defaultdict(set)
    made = set()
    for edge in lineage.edges:
        targets[edge.source].add(edge.target)
        made.add(edge.target)
    alike: dict[tuple[frozenset[str], str], list[LineageNode]] = defaultdict(list)
    for node in lineage.nodes:
        if node.id not in made:
            alike[frozenset(targets[node.id]), node.kind].append(node)
    replaced: dict[str, str] = {}
    rests: list[LineageNode] = []
    for (_, kind), nodes in alike.items():
        if len(nodes) <= limit:
            continue
        folded = nodes[limit - 1 :]
        rest = f"\0rest {len(rests)}"
        replaced |= {node.id: rest for node in folded}
        sizes = [node.bytes for node in folded if node.bytes is not None]
        total = sum(sizes) if len(sizes) == len(folded) else None
        rests.append(LineageNode(id=rest, label=f"{len(folded):,} more", kind=kind, bytes=total))
    kept = [node for node in lineage.nodes if node.id not in replaced]
    edges = dict.fromkeys(replace(edge, source=replaced.get(edge.source, edge.source)) for edge in lineage.edges)
    return Lineage((*rests, *kept), tuple(edges))


def lineage_figure(lineage: Lineage) -> Markup:
    """Draw the graph; the page shows the layout that fits the screen."""
    layers, links = _layers(lineage)
    across, down = _draw_across(layers, links), _draw_down(layers, lineage.edges)
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


def _draw_across(layers: Sequence[Sequence[_Slot]], links: Sequence[tuple[str, str]]) -> Drawing:
    """Layers from left to right, each centred."""

    def height(slot: _Slot) -> float:
        return BOX_HEIGHT if slot.node else BEND_HEIGHT

    totals = [sum(map(height, layer)) + ROW_GAP * (len(layer) - 1) for layer in layers]
    extent = max(totals, default=0.0)
    places: dict[str, tuple[float, float, bool]] = {}  # Left edge, middle, whether a box is there.
    boxes = []
    for rank, layer in enumerate(layers):
        y = (extent - totals[rank]) / 2
        x = rank * (ACROSS_WIDTH + LAYER_GAP)
        for slot in layer:
            places[slot.id] = (x, y + height(slot) / 2, slot.node is not None)
            if slot.node:
                boxes.append(_box(slot.node, x, y, ACROSS_WIDTH))
            y += height(slot) + ROW_GAP
    wires = []
    for source, target in links:
        (from_x, from_y, _), (to_x, to_y, solid) = places[source], places[target]
        start, end = from_x + ACROSS_WIDTH, to_x - (7 if solid else 0)
        bend, before, after = short((start + end) / 2), short(from_y), short(to_y)
        path = f"M{short(start)} {before}C{bend} {before} {bend} {after} {short(end)} {after}"
        if not solid:  # The edge goes on through the layer.
            path += f"H{short(to_x + ACROSS_WIDTH)}"
        wires.append(join(tag("path", d=path, class_="wire"), _arrow(end, to_y) if solid else None))
    width = len(layers) * ACROSS_WIDTH + (len(layers) - 1) * LAYER_GAP
    return width, extent, join(wires, boxes)


def _draw_down(layers: Sequence[Sequence[_Slot]], edges: Sequence[LineageEdge]) -> Drawing:
    """One box per row; edges run in lanes left of the boxes, so that any graph fits a narrow screen."""
    order = [slot.node for layer in layers for slot in layer if slot.node]
    row = {node.id: index for index, node in enumerate(order)}
    sources: dict[str, list[int]] = defaultdict(list)
    for edge in edges:
        if edge.source in row and edge.target in row and row[edge.source] < row[edge.target]:
            sources[edge.target].append(row[edge.source])
    # All edges into a node share a lane; lanes are given out by the first row, so that none overlap.
    free: list[int] = []  # The row down to which each lane is taken.
    lane: dict[str, int] = {}
    for target in sorted(sources, key=lambda target: (min(sources[target]), row[target])):
        first = min(sources[target])
        found = next((index for index, end in enumerate(free) if end <= first), len(free))
        free[found : found + 1] = [row[target]]
        lane[target] = found
    gutter = 16.0 + 13.0 * len(free) if free else 0.0
    width = DOWN_WIDTH - gutter
    pitch = BOX_HEIGHT + ROW_GAP
    wires = []
    for target, from_rows in sources.items():
        x, end = gutter - 14 - 13 * lane[target], row[target] * pitch + BOX_HEIGHT / 2 - 8
        for from_row in sorted(from_rows):
            start = from_row * pitch + BOX_HEIGHT / 2 + 8
            path = (
                f"M{short(gutter)} {short(start)}H{short(x + 6)}q-6 0-6 6V{short(end - 6)}q0 6 6 6H{short(gutter - 7)}"
            )
            wires.append(tag("path", d=path, class_="wire"))
        wires.append(_arrow(gutter - 7, end))
    boxes = [_box(node, gutter, index * pitch, width) for index, node in enumerate(order)]
    return DOWN_WIDTH, len(order) * pitch - ROW_GAP, join(wires, boxes)


def _arrow(x: float, y: float) -> Markup:
    return tag("path", d=f"M{short(x)} {short(y - 4)}l7 4l-7 4z", class_="arrow")


def _box(node: LineageNode, x: float, y: float, width: float) -> Markup:
    room, small_room = int((width - 26) / 7.4), int((width - 22) / 5.9)
    name = node.label if node.version is None else f"{node.label}@{node.version}"
    amount = size(node.bytes) if node.bytes is not None else ""
    facts = " · ".join(part for part in (amount, node.detail) if part)
    lines = [("node-name", line) for line in _two_lines(name, room)[: 1 if node.fingerprint else 2]]
    if node.fingerprint:
        lines = [("node-name", _fit(name, room, keep_end=True)), ("node-print", node.fingerprint[:12])]
    if len(lines) == 1 and len(facts) > small_room:
        lines.append(("node-facts", _fit(node.detail, small_room)))
        facts = amount
    lines.append(("node-facts", _fit(facts, small_room)))
    kind_class = node.kind if node.kind in ("source", "endpoint") else "artifact"
    full = "\n".join(part for part in (_title(node), node.fingerprint or "", facts) if part)
    return tag(
        "g",
        tag("title", full),
        tag("rect", width=width, height=BOX_HEIGHT, rx=8, class_="box"),
        tag("rect", width=4, height=BOX_HEIGHT - 20, x=0, y=10, rx=2, class_="stripe"),
        tag("text", _fit(node.kind, room), x=16, y=22, class_="node-kind"),
        [tag("text", line, x=16, y=41 + 17.5 * row, class_=style) for row, (style, line) in enumerate(lines) if line],
        transform=f"translate({short(x)} {short(y)})",
        class_=f"node node-{kind_class}",
    )


def _two_lines(text: str, characters: int) -> list[str]:
    """Break a label at a space where one line does not hold it."""
    if len(text) <= characters:
        return [text]
    at = text.rfind(" ", 0, characters + 1)
    if at <= 0:
        return [_fit(text, characters, keep_end=True)]
    return [text[:at], _fit(text[at + 1 :], characters, keep_end=True)]


def _fit(text: str, characters: int, *, keep_end: bool = False) -> str:
    """Cut a label in the middle (``keep_end``: its version says most) or at the end."""
    if len(text) <= characters:
        return text
    if keep_end:
        head = (characters - 1) // 2
        return f"{text[:head]}…{text[-(characters - 1 - head) :]}"
    return text[: characters - 1] + "…"


def _svg(drawing: Drawing, label: str) -> Markup:
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
