"""Report sections about curation: distributions, clusters of duplicates, curves, contamination."""

import difflib
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from tatara.tracking.charts import LARGEST, Curve, Mark, downsample, line_chart
from tatara.tracking.limits import Limits, mappings, number
from tatara.tracking.markup import Markup, clip, count, figure, join, large, short, tag
from tatara.tracking.run_sections import table

_STYLES = "abc"
_TONES = {"kept": "good", "removed": "bad", "item": "plain", "document": "bad"}
_BARS = 60
_PAIRS = 3
# A word, a character of a script without spaces, white space, or a single other character.
_UNITS = re.compile(
    r"[\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|[^\W\u0e00-\u0eff\u3040-\u9fff]+|\s+|.", re.S
)
_NOT_WORD = re.compile(r"[^A-Za-z0-9]")
_COMPARED = 1000
"""Units of two texts that are compared: the time this takes can grow with their square."""


def histograms(value: Any) -> Markup | None:
    """Bars by label, side by side: ``title``, ``unit``, ``bars`` (``label``, ``value``) and ``log``."""
    drawn = [part for report in mappings(value) if (part := _histogram(report))]
    return tag("div", drawn, class_="charts") if drawn else None


def _histogram(report: Mapping[str, Any]) -> Markup | None:
    bars = [(clip(bar.get("label", ""), 60), number(bar.get("value"))) for bar in mappings(report.get("bars"))]
    shown = [(label, amount) for label, amount in bars if amount is not None and 0 <= amount <= LARGEST]
    if not shown:
        return None
    rest, shown = len(shown) - _BARS, shown[:_BARS]
    scaled = [math.log1p(amount) if report.get("log") is True else amount for _, amount in shown]
    most = max(scaled) or 1.0
    shares = [short(max(value / most * 100, 1.0 if value else 0.0)) for value in scaled]
    lengthy = max(len(label) for label, _ in shown) > 10
    unit = clip(report.get("unit", ""), 60)
    caption = tag(
        "figcaption",
        tag("span", clip(report.get("title", "Distribution"), 120), class_="chart-title"),
        tag("span", unit, class_="unit") if unit else None,
        tag("span", "logarithmic scale", class_="unit") if report.get("log") is True else None,
    )
    return tag(
        "figure",
        caption,
        _rows(shown, shares) if lengthy else _columns(shown, shares, unit),
        tag("p", f"{rest:,} more bars.", class_="note") if rest > 0 else None,
        class_="chart chart-cell bar-chart",
    )


def _rows(bars: Sequence[tuple[str, float]], shares: Sequence[str]) -> Markup:
    rows = [
        tag(
            "tr",
            tag("th", label, scope="row"),
            tag("td", tag("i", style=f"width:{share}%"), class_="bar"),
            tag("td", figure(amount), class_="number"),
        )
        for (label, amount), share in zip(bars, shares, strict=True)
    ]
    return tag("table", tag("tbody", rows), class_="bars")


def _columns(bars: Sequence[tuple[str, float]], shares: Sequence[str], unit: str) -> Markup:
    """Upright bars as a list that can be read out; their labels again below, as many as fit."""
    few = len(bars) <= 8
    items = [
        tag(
            "li",
            tag("span", f"{label}: ", class_="hidden"),
            tag("b", _brief(amount) if few else figure(amount), class_=None if few else "hidden"),
            tag("i", style=f"height:{share}%", aria_hidden="true"),
            title=f"{label}: {figure(amount)}{f' {unit}' if unit else ''}",
        )
        for (label, amount), share in zip(bars, shares, strict=True)
    ]
    each = math.ceil(len(bars) / 8)
    labels = [
        tag("span", label, style=f"grid-column:span {each}")
        for index, (label, _) in enumerate(bars)
        if index % each == 0 and len(bars) - index >= min(each, len(bars))
    ]
    grid = f"grid-template-columns:repeat({len(bars)},minmax(0,1fr))"
    return tag(
        "div",
        tag("ol", items, class_="columns", style=grid),
        tag(
            "div",
            labels,
            class_="column-labels" if each == 1 else "column-labels starts",
            style=grid,
            aria_hidden="true",
        ),
        class_="column-plot",
    )


def _brief(amount: float) -> str:
    return large(amount).replace(" ", "").replace(".0", "") if amount >= 1e4 else figure(amount)


def curves(value: Any, identity: str, limits: Limits) -> Markup | None:
    """Reported curves: ``title``, ``x``, ``y``, ``series`` (``name``, ``points``), ``marks`` (``x``, ``label``)."""
    drawn = []
    for index, report in enumerate(mappings(value)[: limits.charts]):
        series = []
        for style, row in zip(_STYLES, mappings(report.get("series")), strict=False):
            points = _points(row.get("points"))
            if points:
                series.append(Curve(clip(row.get("name", ""), 40), downsample(points, limits.points), style))
        if not series:
            continue
        marks = [
            Mark(place, clip(row.get("label", ""), 40))
            for row in mappings(report.get("marks"))
            if (place := number(row.get("x"))) is not None and abs(place) <= LARGEST
        ]
        chart = line_chart(
            series,
            identity=f"curve-{_NOT_WORD.sub('-', identity)}-{index}",
            title=clip(report.get("title", "Curve"), 120),
            unit=clip(report.get("y", ""), 60),
            x_label=clip(report.get("x", "x"), 60),
            log_toggle=report.get("log") is True,
            marks=marks,
        )
        drawn.append(tag("div", chart, class_="chart-cell wide"))
    return tag("div", drawn, class_="charts") if drawn else None


def _points(value: Any) -> list[tuple[float, float]]:
    points: dict[float, float] = {}
    for point in value if isinstance(value, list | tuple) else ():
        if isinstance(point, list | tuple) and len(point) == 2:
            x, y = number(point[0]), number(point[1])
            if x is not None and y is not None and max(abs(x), abs(y)) <= LARGEST:
                points[x] = y
    return sorted(points.items())


def duplicate_clusters(value: Any, limits: Limits) -> Markup | None:
    """How many clusters of each size there are, and some of them side by side."""
    parts: list[Markup | None] = []
    for report in mappings(value):
        sizes = {"title": "Clusters by number of copies", "unit": "clusters", "log": True, "bars": report.get("sizes")}
        parts.append(histograms(sizes))
        examples = [
            part for row in mappings(report.get("examples"))[: limits.samples] if (part := _cluster(row, limits))
        ]
        if examples:
            parts += [tag("h3", "Examples"), _key("Marked is what only one of the two has."), *_first_open(examples)]
    return join(parts) or None


def _cluster(example: Mapping[str, Any], limits: Limits) -> tuple[Markup, Markup] | None:
    kept = example.get("kept")
    removed = mappings(example.get("removed"))
    if not isinstance(kept, Mapping) or not removed:
        return None
    copies = number(example.get("copies"))
    summary = join(
        tag("code", clip(example.get("cluster", "cluster"), 80)),
        tag("span", f"{count(copies)} copies" if copies is not None else "", class_="muted"),
    )
    pairs = []
    for row in removed[:_PAIRS]:
        similarity = number(row.get("similarity"))
        notes = [clip(row["reason"], 80)] if row.get("reason") else []
        notes += [f"similarity {figure(similarity)}"] if similarity is not None else []
        pairs.append(_pair(("kept", kept.get("id", ""), ()), ("removed", row.get("id", ""), notes), kept, row, limits))
    return summary, join(pairs)


def _pair(
    left: tuple[str, object, Sequence[str]],
    right: tuple[str, object, Sequence[str]],
    first: Mapping[str, Any],
    second: Mapping[str, Any],
    limits: Limits,
) -> Markup:
    """Two texts beside each other, with what differs marked; each with its role, its id and notes."""
    texts = [clip(row.get("excerpt", ""), limits.excerpt) for row in (first, second)]
    cards = [
        tag(
            "article",
            tag(
                "header",
                tag("span", role, class_=f"chip chip-{_TONES[role]}"),
                tag("code", clip(identity, limits.value), class_="sample-id"),
                [tag("span", note, class_="muted") for note in notes],
            ),
            tag("p", marked, class_="excerpt", dir="auto"),
            class_="sample",
        )
        for (role, identity, notes), marked in zip((left, right), differences(*texts), strict=True)
    ]
    return tag("div", cards, class_="pair")


def differences(one: str, other: str) -> tuple[Markup, Markup]:
    """Two texts with the words marked that only one of them has, in order."""
    first, second = _UNITS.findall(one), _UNITS.findall(other)
    matcher = difflib.SequenceMatcher(None, first[:_COMPARED], second[:_COMPARED], autojunk=False)
    sides: tuple[list[Markup], list[Markup]] = ([], [])
    for operation, a, b, c, d in matcher.get_opcodes():
        for side, text in zip(sides, ("".join(first[a:b]), "".join(second[c:d])), strict=True):
            marked = operation != "equal" and text.strip()
            side.append(tag("mark", text) if marked else join(text))
    sides[0].append(join("".join(first[_COMPARED:])))
    sides[1].append(join("".join(second[_COMPARED:])))
    return join(sides[0]), join(sides[1])


def contamination(value: Any, limits: Limits) -> Markup | None:
    """Benchmark items in the corpus: a table of benchmarks, and matches beside the items."""
    parts: list[Markup | None] = []
    for report in mappings(value):
        reported = report.get("table")
        parts.append(table(reported, limits) if isinstance(reported, Mapping) else None)
        groups: dict[str, list[Mapping[str, Any]]] = {}
        for example in mappings(report.get("examples")):
            groups.setdefault(clip(example.get("benchmark", ""), 80), []).append(example)
        each = max(1, limits.samples // max(len(groups), 1))
        drawn = [
            (
                join(tag("span", name), tag("span", f"{len(examples[:each])} shown", class_="muted")),
                join([_match(example, limits) for example in examples[:each]]),
            )
            for name, examples in list(groups.items())[: limits.rows]
        ]
        if drawn:
            note = "The least certain matches of each benchmark. Marked is what only one of the two has."
            parts += [tag("h3", "Matches"), _key(note), *_first_open(drawn)]
    return join(parts) or None


def _match(example: Mapping[str, Any], limits: Limits) -> Markup:
    overlap, place = number(example.get("overlap")), number(example.get("start"))
    notes = [f"{overlap:.0%} of the item"] if overlap is not None and abs(overlap) <= LARGEST else []
    notes += [f"from character {count(place)}"] if place is not None else []
    item = {"excerpt": example.get("item_excerpt", "")}
    return _pair(
        ("item", example.get("item", ""), ()), ("document", example.get("document", ""), notes), item, example, limits
    )


def _key(text: str) -> Markup:
    return tag("p", text, class_="note key-note")


def _first_open(groups: Sequence[tuple[Markup, Markup]]) -> list[Markup]:
    return [
        tag("details", tag("summary", summary), tag("div", content, class_="pairs"), open=index == 0, class_="group")
        for index, (summary, content) in enumerate(groups)
    ]
