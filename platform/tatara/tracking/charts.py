"""Line charts as inline SVG: sampled, with axes, readable at any width and without scripts."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tatara.tracking.markup import Markup, figure, join, large, short, tag

Point = tuple[float, float]
VIEW = 1000.0
"""The plot's own units, both ways; the browser stretches them, so labels and markers are HTML on top."""


LARGEST = 1e300
"""Values beyond count as not finite: the arithmetic of an axis around them would overflow."""
LOG_RANGE = (1e-30, 1e30)
"""Where a logarithmic axis is offered."""


@dataclass(frozen=True)
class Curve:
    """One line of a chart."""

    label: str
    points: Sequence[Point]
    """(step, value), finite, by rising step."""
    style: str = "a"
    """``"a"`` (accent), ``"b"`` (second colour, with point marks) or ``"c"`` (muted, dashed)."""


@dataclass(frozen=True)
class Mark:
    """A place on the x axis that a chart points out, such as a threshold."""

    at: float
    label: str


def curve_points(series: Iterable[Mapping[str, Any]], name: str) -> tuple[list[Point], int]:
    """The points of one metric by rising step, and how many values were not finite.

    A resumed run repeats steps; the last value of a step counts.
    """
    by_step: dict[float, float] = {}
    for row in series:
        value, step = row.get(name), row.get("step")
        if isinstance(value, int | float) and isinstance(step, int | float):
            by_step[float(step)] = float(value)
    finite = sorted((step, value) for step, value in by_step.items() if abs(value) <= LARGEST)
    return finite, len(by_step) - len(finite)


def downsample(points: Sequence[Point], limit: int = 800) -> list[Point]:
    """Thin a curve to at most ``limit`` points, keeping its first and last point and every bucket's extremes.

    The result is a subsequence of the input, with the same minimum and maximum; so no spike gets lost.

    Raises:
        ValueError: ``limit`` is below 4.
    """
    if limit < 4:
        raise ValueError(f"a curve needs at least 4 points: {limit}")
    total = len(points)
    if total <= limit:
        return list(points)
    buckets = (limit - 2) // 2
    kept = {0, total - 1}
    for bucket in range(buckets):
        indices = range(total * bucket // buckets, total * (bucket + 1) // buckets)
        kept.add(min(indices, key=lambda index: points[index][1]))
        kept.add(max(indices, key=lambda index: points[index][1]))
    return [points[index] for index in sorted(kept)]


def ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round numbers within ``[low, high]``, about ``wanted`` of them, spaced 1, 2, 2.5 or 5 times a power of ten."""
    span = high - low
    raw = span / wanted
    if raw < 1e-300:  # Nothing to divide: one value, or a span below what a float resolves.
        return [low]
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= raw * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    if last - first > 4 * wanted:  # The span is below the precision of the numbers.
        return [low, high]
    return [index * step + 0.0 for index in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Round numbers for a logarithmic axis over ``[low, high]``, both positive."""
    decades = math.log10(high) - math.log10(low)
    if decades < 0.7:
        return [tick for tick in ticks(low, high, 4) if tick > 0]
    factors = (1, 2, 5) if decades < 3 else (1,)
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found = [factor * 10.0**exponent for exponent in exponents for factor in factors]
    found = [tick for tick in found if low * 0.999 <= tick <= high * 1.001]
    return found[:: max(1, math.ceil(len(found) / 7))]


@dataclass(frozen=True)
class Scale:
    """Maps values to ``[0, VIEW]``."""

    low: float
    high: float
    log: bool = False

    def at(self, value: float) -> float:
        """Position of a value in plot units."""
        low, high = self.low, self.high
        if self.log:
            low, high, value = math.log(low), math.log(high), math.log(value)
        return VIEW * (value - low) / (high - low) if high > low else VIEW / 2


def value_scale(values: Sequence[float], *, log: bool = False) -> Scale:
    """A scale that leaves a little room above and below."""
    low, high = min(values), max(values)
    if log:
        room = max((high / low) ** 0.05, 1.02)
        return Scale(low / room, high * room, log=True)
    if low >= 0 and low < 0.3 * high:
        return Scale(0.0, high * 1.06)
    room = (high - low) * 0.12 or abs(high) * 0.05 or 1.0
    return Scale(low - room, high + room)


def line_chart(
    curves: Sequence[Curve],
    *,
    identity: str,
    title: str,
    unit: str = "",
    x_label: str = "step",
    log_toggle: bool = False,
    marks: Sequence[Mark] = (),
) -> Markup:
    """A chart of one or more curves over one x axis.

    Args:
        curves: At least one, each with at least one point.
        identity: Unique id for the document.
        title: Heading, also the start of the accessible description.
        unit: Unit of the y axis.
        x_label: Caption of the x axis.
        log_toggle: Offer a logarithmic y axis (where all values are positive).
        marks: Vertical lines, where they are within the curves' reach.
    """
    values = [y for curve in curves for _, y in curve.points]
    steps = [x for curve in curves for x, _ in curve.points]
    x_scale = Scale(min(steps), max(steps))
    linear = value_scale(values)
    toggle = log_toggle and LOG_RANGE[0] < min(values) < max(values) < LOG_RANGE[1]
    marks = [mark for mark in marks if x_scale.low <= mark.at <= x_scale.high]
    label = describe(title, unit, curves, x_label, marks)
    planes = [_plane(curves, x_scale, linear, label, x_label, marks)]
    if toggle:
        planes.append(_plane(curves, x_scale, value_scale(values, log=True), label, x_label, marks))
    box = f"{identity}-log"
    return tag(
        "figure",
        tag(
            "figcaption",
            tag("span", title, class_="chart-title"),
            tag("span", unit, class_="unit") if unit else None,
            _legend(curves),
        ),
        # Before the planes, so that CSS alone can switch them.
        (
            tag("input", type="checkbox", id=box, class_="log-switch"),
            tag("label", "log scale", for_=box, class_="log-label"),
        )
        if toggle
        else None,
        tag("div", planes, class_="planes"),
        class_="chart",
    )


def describe(title: str, unit: str, curves: Sequence[Curve], x_label: str = "step", marks: Sequence[Mark] = ()) -> str:
    """A chart in a sentence, for those who do not see it."""
    parts = []
    for curve in curves:
        (first_step, first), (last_step, last) = curve.points[0], curve.points[-1]
        values = [y for _, y in curve.points]
        parts.append(
            f"{curve.label} goes from {figure(first)} at {x_label} {figure(first_step)} to {figure(last)} at {x_label} "
            f"{figure(last_step)} (lowest {figure(min(values))}, highest {figure(max(values))})"
        )
    parts += [f"{mark.label} is at {x_label} {figure(mark.at)}" for mark in marks]
    return f"{title}{f' in {unit}' if unit else ''}: {'; '.join(parts)}."


def _legend(curves: Sequence[Curve]) -> Markup | None:
    if len(curves) < 2:
        return None
    return tag(
        "span",
        [tag("span", tag("i", class_=f"key key-{curve.style}", aria_hidden="true"), curve.label) for curve in curves],
        class_="legend",
    )


def _plane(
    curves: Sequence[Curve], x_scale: Scale, y_scale: Scale, label: str, x_label: str, pointed: Sequence[Mark]
) -> Markup:
    y_ticks = log_ticks(y_scale.low, y_scale.high) if y_scale.log else ticks(y_scale.low, y_scale.high)
    x_ticks = ticks(x_scale.low, x_scale.high, 6)
    grid = join(
        [tag("line", x1=0, x2=1000, y1=VIEW - y_scale.at(y), y2=VIEW - y_scale.at(y), class_="grid") for y in y_ticks],
        [tag("line", x1=x_scale.at(x), x2=x_scale.at(x), y1=988, y2=1000, class_="axis") for x in x_ticks],
        tag("line", x1=0, x2=1000, y1=1000, y2=1000, class_="axis"),
    )
    lines, marks = _pointers(pointed, x_scale)
    for curve in curves:
        placed = [(x_scale.at(x), VIEW - y_scale.at(y)) for x, y in curve.points]
        path = "M" + "L".join(f"{short(x)} {short(y)}" for x, y in placed)
        if len(placed) > 1:
            lines.append(tag("path", d=path, class_=f"curve curve-{curve.style}"))
        if len(placed) <= 40 and (curve.style == "b" or len(placed) == 1):
            marks += [
                tag("i", class_=f"mark mark-{curve.style}", style=f"left:{short(x / 10)}%;top:{short(y / 10)}%")
                for x, y in placed
            ]
    data = [
        {"l": curve.label, "s": curve.style, "p": [[_compact(x), _compact(y)] for x, y in curve.points]}
        for curve in curves
    ]
    bounds = [x_scale.low, x_scale.high, y_scale.low, y_scale.high, int(y_scale.log)]
    plot = tag(
        "div",
        tag("svg", grid, lines, viewBox="0 0 1000 1000", preserveAspectRatio="none", role="img", aria_label=label),
        marks,
        class_="plot",
        # One copy of the points is enough for both planes.
        data_curves=json.dumps(data, separators=(",", ":")) if not y_scale.log else None,
        data_bounds=json.dumps(bounds),
        data_x=x_label if x_label != "step" else None,
    )
    y_axis = [tag("span", axis_label(y, y_ticks), style=f"top:{short((VIEW - y_scale.at(y)) / 10)}%") for y in y_ticks]
    # An invisible copy of the widest label gives the column its width.
    widest = max((axis_label(y, y_ticks) for y in y_ticks), key=len, default="")
    x_axis = [
        tag(
            "span",
            axis_label(x, x_ticks),
            style=f"left:{short(x_scale.at(x) / 10)}%",
            class_="edge" if x_scale.at(x) > 0.97 * VIEW and len(x_ticks) > 1 else None,
        )
        for x in x_ticks
    ]
    return tag(
        "div",
        tag("div", tag("b", widest), y_axis, class_="y-axis", aria_hidden="true"),
        plot,
        tag("div", x_axis, class_="x-axis", aria_hidden="true"),
        tag("div", x_label, class_="x-label", aria_hidden="true"),
        class_="plane log" if y_scale.log else "plane linear",
    )


def _pointers(marks: Sequence[Mark], scale: Scale) -> tuple[list[Markup], list[Markup]]:
    """Lines and labels of what a chart points out."""
    places = [(mark.label, scale.at(mark.at)) for mark in marks]
    lines = [tag("line", x1=at, x2=at, y1=0, y2=1000, class_="pointer") for _, at in places]
    labels = [
        tag(
            "span",
            label,
            style=f"left:{short(at / 10)}%",
            class_="pointer-label before" if at > VIEW / 2 else "pointer-label",
            aria_hidden="true",
        )
        for label, at in places
    ]
    return lines, labels


def axis_label(value: float, all_ticks: Sequence[float]) -> str:
    """A tick label, short, with as many decimals as the spacing needs."""
    if value == 0:
        return "0"
    largest = max(abs(tick) for tick in all_ticks)
    if largest < 1e-3 or largest >= 1e15:
        return f"{value:.3g}".replace("e-0", "e-").replace("e+0", "e").replace("e+", "e")
    if largest >= 1e4:
        return large(value).replace(" ", "").replace(".0", "")
    return f"{value:.6g}"


def _compact(value: float) -> float:
    return float(f"{value:.5g}") if abs(value) < 1e5 else round(value, 1)
