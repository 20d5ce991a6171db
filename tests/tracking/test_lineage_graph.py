import re
from xml.etree import ElementTree

from hypothesis import given
from hypothesis import strategies as st

from tatara.tracking import Lineage, LineageEdge, LineageNode, RunRecord
from tatara.tracking.lineage_graph import fold, lineage_figure
from tatara.tracking.record import lineage_of
from tracking.run_records import chain, full_run

names = st.integers(min_value=0, max_value=7).map(str)


def rectangles(svg: ElementTree.Element) -> list[tuple[float, float, float, float]]:
    found = []
    for group in svg.iter("g"):
        at = re.match(r"translate\(([-\d.]+) ([-\d.]+)\)", group.attrib["transform"])
        assert at
        box = next(rect for rect in group.iter("rect") if rect.attrib["class"] == "box")
        found.append((float(at[1]), float(at[2]), float(box.attrib["width"]), float(box.attrib["height"])))
    return found


@given(count=st.integers(1, 8), pairs=st.lists(st.tuples(names, names), max_size=20))
def test_any_graph_even_with_cycles_is_drawn_without_overlaps(count: int, pairs: list[tuple[str, str]]) -> None:
    nodes = tuple(LineageNode(str(i), f"node {i}", "artifact") for i in range(count))
    page = ElementTree.fromstring(
        f"<div>{lineage_figure(Lineage(nodes, [LineageEdge(*pair) for pair in pairs]))}</div>"
    )
    for svg in page.iter("svg"):
        boxes = rectangles(svg)
        assert len(boxes) == count
        width, height = float(svg.attrib["width"]), float(svg.attrib["height"])
        for index, (x, y, w, h) in enumerate(boxes):
            assert x >= 0
            assert y >= 0
            assert x + w <= width
            assert y + h <= height
            for a, b, c, d in boxes[index + 1 :]:
                assert x + w <= a or a + c <= x or y + h <= b or b + d <= y


def test_a_chain_runs_from_left_to_right_and_from_top_to_bottom() -> None:
    page = ElementTree.fromstring(f"<div>{lineage_figure(chain('a', 'b', 'c'))}</div>")
    across, down = page.iter("svg")
    assert [x for x, *_ in rectangles(across)] == sorted({x for x, *_ in rectangles(across)})
    assert [y for _, y, *_ in rectangles(down)] == sorted({y for _, y, *_ in rectangles(down)})
    assert (
        across.attrib["aria-label"]
        == "Lineage: artifact b is made from artifact a; artifact c is made from artifact b."
    )


def test_a_graph_too_wide_for_a_laptop_is_drawn_downwards_only() -> None:
    page = ElementTree.fromstring(f"<div>{lineage_figure(chain(*map(str, range(12))))}</div>")
    (down,) = page.iter("svg")
    assert float(down.attrib["width"]) < 330


def test_many_sources_of_one_artifact_are_folded_and_their_bytes_added() -> None:
    nodes = [LineageNode(f"s{i}", f"s{i}", "source", bytes=10) for i in range(50)]
    nodes += [
        LineageNode("d", "d", "documents"),
        LineageNode("lone", "lone", "source"),
        LineageNode("e", "e", "documents"),
    ]
    edges = [LineageEdge(f"s{i}", "d") for i in range(50)] + [LineageEdge("lone", "e")]
    folded = fold(Lineage(nodes, edges), 8)
    assert len(folded.nodes) == 8 + 3
    (rest,) = [node for node in folded.nodes if node.label == "43 more"]
    assert rest.bytes == 430
    assert sum(edge.target == "d" for edge in folded.edges) == 8
    assert fold(folded, 8) == folded


def test_without_a_lineage_the_stages_artifacts_and_inputs_make_one() -> None:
    lineage = lineage_of(full_run())
    kinds = [node.kind for node in lineage.nodes]
    assert kinds == ["documents", "tokens", "checkpoint", "checkpoint", "model", "endpoint"]
    assert {(edge.source, edge.target) for edge in lineage.edges} >= {
        ("tokens/quickstart@1", "checkpoint/quickstart@1")
    }
    assert lineage.nodes[0].label == "quickstart"
    assert lineage.nodes[0].version == 1
    assert lineage_of(RunRecord("r", "i", 0.0, "running")) == Lineage()
