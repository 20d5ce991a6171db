import itertools
import re

from hypothesis import given, settings
from hypothesis import strategies as st

from tatara.tracking.lanes import columns, read_lanes, timeline_picture
from tatara.tracking.limits import LEVELS
from tracking.rl_records import reports

LIMITS = LEVELS[0]


def test_a_lane_is_drawn_to_scale_and_said_in_words() -> None:
    drawn = str(timeline_picture(read_lanes(reports("plain")["rl_timeline"]), LIMITS))
    # Lanes of a kind stand together, in the order in which the kinds first came.
    assert re.findall(r'class="span-name">([^<]*)<', drawn) == ["rollout-0", "rollout-1", "plain", "learner"]
    assert '<path d="M0 0h600v1h-600zM700 0h200v1h-200z" class="tone-0"><' in drawn.replace("</path>", "<")
    assert 'aria-label="rollout-0: generate 80.0%, sync 10.0%, wait 10.0%"' in drawn
    assert [word for _, word in re.findall(r'<i class="swatch ([^"]*)" aria-hidden="true"></i>([^<]*)<', drawn)] == [
        "generate", "train", "sync", "score", "checkpoint", "wait", "plain",
    ]  # fmt: skip
    assert "lane-ground" in drawn


def test_the_picture_of_a_long_run_stays_small() -> None:
    spans = [[index * 1.0, 0.9, ("generate", "sync")[index % 2]] for index in range(2_000)]
    lanes = read_lanes([{"name": f"rollout-{n}", "kind": "rollout", "spans": spans} for n in range(60)])
    drawn = str(timeline_picture(lanes, LIMITS))
    assert drawn.count("<li") == 48
    assert drawn.count("M") < 48 * 100
    assert len(drawn) < 200_000
    assert "12 more lanes." in drawn
    assert "in the colour of what took most of it" in drawn


def test_columns_are_what_took_most_of_them() -> None:
    spans = [(0.0, 0.6, "a"), (0.6, 0.4, "b"), (1.0, 0.3, "a"), (1.3, 0.7, "b"), (2.0, 1.0, "b"), (4.0, 1.0, "a")]
    assert columns(spans, 5.0, 5) == [(0.0, 1.0, "a"), (1.0, 2.0, "b"), (4.0, 1.0, "a")]


def test_overlapping_spans_give_way_to_the_later_one() -> None:
    (lane,) = read_lanes({"name": "x", "spans": [[0, 10, "a"], [4, 2, "b"], [5, 0, "c"], [-1, 0.5, "d"]]})
    assert lane.spans == [(0.0, 4.0, "a"), (4.0, 2.0, "b")]


def test_what_was_before_the_start_is_cut_off() -> None:
    (lane,) = read_lanes({"name": "x", "spans": [[-3, 5, "start"], [2, 1, "wait"]]})
    assert lane.spans == [(0.0, 2.0, "start"), (2.0, 1.0, "wait")]


lanes_given = st.lists(
    st.tuples(st.floats(0, 1e6), st.floats(1e-3, 1e5), st.sampled_from(["generate", "sync", "wait", "x"])),
    min_size=1, max_size=80,
)  # fmt: skip


@given(lanes_given, st.integers(1, 50))
@settings(max_examples=60, deadline=None)
def test_columns_neither_overlap_nor_leave_the_picture(spans: list[tuple[float, float, str]], count: int) -> None:
    lanes = read_lanes({"name": "x", "spans": spans})
    if not lanes:
        return
    own = lanes[0].spans
    end = max(start + length for start, length, _ in own)
    found = columns(own, end, count)
    assert 1 <= len(found) <= count
    edges = [edge for start, length, _ in found for edge in (start, start + length)]
    assert edges == sorted(edges) or max(a - b for a, b in itertools.pairwise(edges)) < 1e-6 * end
    assert edges[-1] <= end * (1 + 1e-9)
    assert {what for _, _, what in found} <= {what for _, _, what in own}


def test_no_lane_no_picture() -> None:
    assert timeline_picture(read_lanes([{"name": "x", "spans": [[0, float("nan"), "a"], "odd"]}, 3]), LIMITS) is None
