"""A timeline picture: what each process did when, one lane below the other, as inline SVG without scripts."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from tatara.tracking.charts import ticks
from tatara.tracking.limits import Limits, mappings, number
from tatara.tracking.markup import Markup, clip, duration, short, tag

_TONES = {
    "generate": 0, "train": 1, "sync": 2, "score": 5, "checkpoint": 6, "evaluate": 7, "down": 4, "start": 3,
    "environment": 9, "wait": 8,
}  # fmt: skip
"""Colours of what is usual; anything else takes those that are left."""
_LEFT = (3, 9)
_SPANS_PER_POINT = 5
_FEWEST_SPANS = 40
_LANES = 48
MOST_SECONDS = 1e10
"""Times beyond are mistakes."""
_EMPTY = "wait"
"""What is drawn as nothing: the ground of a lane."""

Span = tuple[float, float, str]
"""Start and length in seconds, and what was done."""


@dataclass(frozen=True)
class Lane:
    """One process."""

    name: str
    kind: str
    """For example ``"rollout"``, ``"reward"`` or ``"learner"``; lanes of a kind stand together."""
    spans: Sequence[Span]
    """By rising start, not overlapping."""

    def seconds(self) -> dict[str, float]:
        """Seconds by what was done."""
        found: dict[str, float] = {}
        for _, length, what in self.spans:
            found[what] = found.get(what, 0.0) + length
        return found


def read_lanes(value: Any) -> list[Lane]:
    """Lanes of a report: ``name``, ``kind`` and ``spans``, each start, seconds and what; odd spans are left out.

    What was before the start is cut off. Where spans overlap the earlier one ends when the later one starts.
    """
    lanes = []
    for row in mappings(value):
        given = row.get("spans")
        spans = sorted(
            found for each in (given if isinstance(given, list | tuple) else ()) if (found := _span(each)) is not None
        )
        starts = [*(start for start, _, _ in spans[1:]), math.inf]
        cut = [
            (start, min(length, then - start), what) for (start, length, what), then in zip(spans, starts, strict=False)
        ]
        kept = [span for span in cut if span[1] > 0]
        lanes.append(Lane(clip(row.get("name", ""), 60), clip(row.get("kind", ""), 60), kept))
    return [lane for lane in lanes if lane.spans]


def _span(value: Any) -> Span | None:
    if not isinstance(value, list | tuple) or len(value) != 3:
        return None
    start, length = number(value[0]), number(value[1])
    if start is None or length is None or not abs(start) <= MOST_SECONDS or not 0 < length <= MOST_SECONDS:
        return None
    length += min(0.0, start)
    return (max(0.0, start), length, clip(value[2], 40)) if length > 0 else None


def timeline_picture(lanes: Sequence[Lane], limits: Limits) -> Markup | None:
    """The lanes over one time axis, with a legend.

    A lane with more spans than fit is drawn in columns, each in the colour of what took most of its time; the number
    of spans in the page is bounded, whatever the run was.
    """
    kinds = list(dict.fromkeys(lane.kind for lane in lanes))
    shown = sorted(lanes, key=lambda lane: kinds.index(lane.kind))[:_LANES]
    end = max((start + length for lane in shown for start, length, _ in lane.spans), default=0.0)
    if not end:
        return None
    tones = _tones(shown)
    most = max(_FEWEST_SPANS, limits.points * _SPANS_PER_POINT // len(shown))
    rows = [_row(lane, end, most, tones) for lane in shown]
    marks = ticks(0.0, end, 6)
    axis = [
        tag(
            "span",
            duration(at) if at else "0",
            style=f"left:{short(at / end * 100)}%",
            class_="edge" if at > 0.92 * end and len(marks) > 1 else None,
        )
        for at in marks
    ]
    more = len(lanes) - len(shown)
    notes = [f"{more:,} more lanes."] if more else []
    if any(len(lane.spans) > most for lane in shown):
        notes.append(f"A column stands for {duration(end / most)}, in the colour of what took most of it.")
    return tag(
        "figure",
        tag("p", _legend(tones), class_="legend stack-keys"),
        tag("ol", rows, class_="lanes"),
        tag("div", tag("span"), tag("div", axis, class_="x-axis"), class_="lanes-axis", aria_hidden="true"),
        tag("p", " ".join(notes), class_="note") if notes else None,
        class_="timeline-picture",
    )


def _tones(lanes: Sequence[Lane]) -> dict[str, int]:
    """A colour for each thing that was done, the usual ones first."""
    found = dict.fromkeys(what for lane in lanes for _, _, what in lane.spans)
    known = {what: tone for what, tone in _TONES.items() if what in found}
    others = [what for what in found if what not in known]
    return known | {what: _LEFT[index % len(_LEFT)] for index, what in enumerate(others)}


def _legend(tones: Mapping[str, int]) -> list[Markup]:
    return [
        tag(
            "span",
            tag("i", class_="swatch lane-ground" if what == _EMPTY else f"swatch tone-{tone}", aria_hidden="true"),
            what,
        )
        for what, tone in tones.items()
    ]


def _row(lane: Lane, end: float, most: int, tones: Mapping[str, int]) -> Markup:
    spans = lane.spans if len(lane.spans) <= most else columns(lane.spans, end, most)
    paths: dict[str, list[str]] = {}
    for start, length, what in spans:
        if what != _EMPTY:
            wide = max(length / end * 1000, 0.5)
            paths.setdefault(what, []).append(f"M{short(start / end * 1000)} 0h{short(wide)}v1h-{short(wide)}z")
    seconds = lane.seconds()
    total = sum(seconds.values())
    told = ", ".join(f"{what} {spent / total:.1%}" for what, spent in sorted(seconds.items(), key=lambda row: -row[1]))
    drawn = [tag("path", d="".join(parts), class_=f"tone-{tones[what]}") for what, parts in paths.items()]
    svg = tag(
        "svg",
        drawn,
        viewBox="0 0 1000 1",
        preserveAspectRatio="none",
        role="img",
        aria_label=f"{lane.name}: {told}",
    )
    return tag("li", tag("span", lane.name, class_="span-name"), svg, title=told)


def columns(spans: Sequence[Span], end: float, count: int) -> list[Span]:
    """Spans as at most ``count`` columns of equal width, each what took most of it; equal neighbours become one.

    Args:
        spans: By rising start, not overlapping.
        end: Seconds that all columns cover.
        count: Columns.
    """
    width = end / count
    taken: list[dict[str, float]] = [{} for _ in range(count)]
    for start, length, what in spans:
        first, last = min(count - 1, int(start / width)), min(count - 1, int((start + length) / width))
        for index in range(first, last + 1):
            part = min(start + length, (index + 1) * width) - max(start, index * width)
            # A span that ends on an edge only touches the next column.
            if part > 0:
                taken[index][what] = taken[index].get(what, 0.0) + part
    majority = [max(each, key=lambda what: each[what]) if each else None for each in taken]
    found: list[Span] = []
    for what, group in groupby(enumerate(majority), key=lambda pair: pair[1]):
        indices = [index for index, _ in group]
        if what is not None:
            found.append((indices[0] * width, len(indices) * width, what))
    return found
