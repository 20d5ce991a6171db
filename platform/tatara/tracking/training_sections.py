"""Report sections about a training run: where its time went, its guards, its data, its experts.

Shapes of what a stage reports, each key optional; odd values are left out, they never fail a page:

- ``time_account``: ``effective`` (0 to 1), ``wall_seconds``, ``steps``, ``restarts``, and ``parts``, a list of
  ``cause`` (a name to show) and ``seconds``; the first part is the useful one.
- ``guard``: a list of ``step``, ``action`` (warn, skip, rollback, stop), ``reason``, ``loss``, ``gradient_norm`` and
  ``positions`` (first and end of the sequence numbers that the step had).
- ``stragglers``: a list of ``step``, ``rank``, ``host``, ``ratio``, ``seconds``, ``usual_seconds`` and ``cause``.
- ``hangs``: a list of ``step`` and ``message``.
- ``checkpoints``: a list of ``step``, ``seconds``, ``blocked_seconds`` and perhaps ``bytes``.
- ``mixture``: ``phases``, a list of ``name``, ``from_step``, ``until_step``, ``sequence_length`` and ``shares`` (source
  to share), and ``epochs`` (source to passes over it).
- ``router``: ``step``, ``layers`` (their numbers) and ``loads`` (for each layer, the load of every expert relative to
  the mean).

Metrics of a family, such as ``train.validation_loss.<source>``, become charts side by side.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tatara.tracking.charts import LARGEST, Curve, curve_points, downsample, line_chart
from tatara.tracking.limits import Limits, mappings, number
from tatara.tracking.markup import Child, Markup, clip, duration, figure, join, short, size, tag
from tatara.tracking.record import StageRecord
from tatara.tracking.run_sections import family, slug, table

_TONES = 10
_LEVELS = 4
_FAMILIES = {
    "validation_loss": ("Validation loss by source", "nats per token"),
    "parameter_norm": ("Parameter norms", ""),
    "update_ratio": ("Size of an update relative to the parameters", ""),
}
_ACTION_TONES = {"warn": "plain", "skip": "bad", "rollback": "bad", "stop": "bad"}
_CELLS_PER_POINT = 20


def training(stage: StageRecord, limits: Limits) -> Markup | None:
    """Everything that this module shows of one stage."""
    reports = stage.reports
    parts: list[tuple[str, Child]] = [
        ("Time", time_account(reports.get("time_account"))),
        ("Guard", guard_actions(reports.get("guard"), limits)),
        ("Hangs", hangs(reports.get("hangs"), limits)),
        ("Mixture", mixture(reports.get("mixture"), limits)),
        *((title, member_charts(stage, name, limits)) for name, (title, _) in _FAMILIES.items()),
        ("Router load", router(reports.get("router"), limits)),
    ]
    drawn: list[Child] = [(tag("h3", title), part) for title, part in parts if part]
    drawn += [stragglers(reports.get("stragglers"), limits), checkpoints(reports.get("checkpoints"), limits)]
    return join(drawn) or None


def time_account(value: Any) -> Markup | None:
    """A bar of all time, and its parts as a table."""
    report = next(iter(mappings(value)), {})
    parts = [
        (clip(row.get("cause", ""), 80), seconds)
        for row in mappings(report.get("parts"))
        if (seconds := number(row.get("seconds"))) is not None and 0 < seconds <= LARGEST
    ]
    total = sum(seconds for _, seconds in parts)
    if not parts:
        return None
    effective, restarts = number(report.get("effective")), number(report.get("restarts"))
    words = [f"Effective training time {effective:.1%}"] if effective is not None and abs(effective) <= LARGEST else []
    words += [f"{figure(restarts)} restart{'' if restarts == 1 else 's'}"] if restarts else []
    rows = [
        tag(
            "tr",
            tag("th", tag("i", class_=f"swatch tone-{index % _TONES}", aria_hidden="true"), cause, scope="row"),
            tag("td", duration(seconds), class_="number"),
            tag("td", f"{seconds / total:.1%}", class_="number muted"),
        )
        for index, (cause, seconds) in enumerate(parts)
    ]
    head = tag(
        "tr",
        tag("th", "cause", scope="col"),
        tag("th", "time", scope="col", class_="number"),
        tag("th", "share", scope="col", class_="number"),
    )
    return join(
        tag("p", tag("b", words[0]), *(f" · {word}" for word in words[1:]), class_="stack-title") if words else None,
        _stack([seconds for _, seconds in parts]),
        tag("table", tag("thead", head), tag("tbody", rows), class_="stack-parts"),
    )


def mixture(value: Any, limits: Limits) -> Markup | None:
    """The shares of the sources in each phase, as bars over each other."""
    report = next(iter(mappings(value)), {})
    phases = [(row, _shares(row.get("shares"))) for row in mappings(report.get("phases"))[: limits.rows]]
    phases = [(row, shares) for row, shares in phases if shares]
    sources = list(dict.fromkeys(name for _, shares in phases for name in shares))
    if not sources:
        return None
    epochs = _shares(report.get("epochs"))
    keys = [
        tag(
            "span",
            tag("i", class_=f"swatch tone-{index % _TONES}", aria_hidden="true"),
            clip(name, 60),
            f" ({figure(epochs[name])} epochs)" if name in epochs else None,
        )
        for index, name in enumerate(sources[: limits.rows])
    ]
    rows = []
    for row, shares in phases:
        told = ", ".join(f"{clip(name, 60)} {share:.1%}" for name, share in shares.items() if share)
        steps = "–".join(figure(row[key]) for key in ("from_step", "until_step") if number(row.get(key)) is not None)
        length = number(row.get("sequence_length"))
        notes = [f"steps {steps}"] if steps else []
        notes += [f"{figure(length)} tokens"] if length is not None else []
        rows.append(
            tag(
                "li",
                tag("span", clip(row.get("name", "phase"), 60), class_="span-name"),
                _stack([shares.get(name, 0.0) for name in sources], told),
                tag("small", ", ".join(notes)),
            )
        )
    return join(tag("p", keys, class_="legend stack-keys"), tag("ol", rows, class_="phases"))


def _shares(value: Any) -> dict[str, float]:
    if not isinstance(value, Mapping):
        return {}
    found = {str(name): number(share) for name, share in value.items()}
    return {name: share for name, share in found.items() if share is not None and 0 <= share <= LARGEST}


def _stack(amounts: Sequence[float], label: str = "") -> Markup:
    """A bar of several parts; ``label`` says it where no table does."""
    total = sum(amounts) or 1.0
    parts = [
        tag("i", class_=f"tone-{index % _TONES}", style=f"width:{short(amount / total * 100)}%")
        for index, amount in enumerate(amounts)
        if amount > 0
    ]
    described = {"role": "img", "aria_label": label, "title": label} if label else {"aria_hidden": "true"}
    return tag("div", parts, class_="stack", **described)


def guard_actions(value: Any, limits: Limits) -> Markup | None:
    """What the guard did, one row each."""
    rows = [
        tag(
            "tr",
            tag("td", figure(row.get("step", "")), class_="number"),
            tag(
                "td",
                tag(
                    "span",
                    clip(row.get("action", ""), 20),
                    class_=f"chip chip-{_ACTION_TONES.get(str(row.get('action')), 'plain')}",
                ),
            ),
            tag("td", _span(row.get("positions")), class_="number"),
            tag("td", clip(row.get("reason", ""), limits.value)),
        )
        for row in mappings(value)[: limits.rows]
    ]
    if not rows:
        return None
    titles = (("step", "number"), ("action", None), ("sequences", "number"), ("reason", None))
    head = tag("tr", [tag("th", title, scope="col", class_=style) for title, style in titles])
    return _scroll(tag("table", tag("thead", head), tag("tbody", rows), class_="grid-table"), "What the guard did")


def _span(value: Any) -> str:
    ends = [number(end) for end in value] if isinstance(value, list | tuple) else []
    return "–".join(figure(end) for end in ends if end is not None)


def hangs(value: Any, limits: Limits) -> Markup | None:
    """One line per hang."""
    lines = [clip(row.get("message", ""), limits.value) for row in mappings(value)[: limits.rows]]
    return tag("ul", [tag("li", line) for line in lines]) if lines else None


def stragglers(value: Any, limits: Limits) -> Markup | None:
    """Ranks that kept the others waiting."""
    columns = ("step", "rank", "host", "ratio", "seconds", "usual_seconds", "cause")
    names = ["step", "rank", "host", "times the others", "s per step", "the others' s", "mostly"]
    rows = [[row.get(column) for column in columns] for row in mappings(value)]
    return table({"title": "Stragglers", "columns": names, "rows": rows}, limits) if rows else None


def checkpoints(value: Any, limits: Limits) -> Markup | None:
    """What checkpoints cost, the last ones."""
    given = mappings(value)
    with_size = any(number(row.get("bytes")) is not None for row in given)
    names = ["step", "seconds to write", "seconds without training", *(["size"] if with_size else [])]
    rows = [
        [
            row.get("step"),
            row.get("seconds"),
            row.get("blocked_seconds"),
            *([size(row.get("bytes", ""))] if with_size else []),
        ]
        for row in given[-limits.rows :]
    ]
    return table({"title": "Checkpoints", "columns": names, "rows": rows}, limits) if rows else None


def member_charts(stage: StageRecord, name: str, limits: Limits) -> Markup | None:
    """A small chart for each member of a family of metrics, beside the whole where there is one."""
    found = dict.fromkeys(key for row in stage.series for key in row if (family(key) or ("",))[0] == name)
    drawn: list[Markup] = []
    for key in list(found)[: limits.charts]:
        points, _ = curve_points(stage.series, key)
        if not points:
            continue
        member = (family(key) or ("", key))[1]
        whole, _ = curve_points(stage.series, key.removesuffix(f".{member}"))
        curves = [Curve(member, downsample(points, limits.points), "b")]
        curves += [Curve("all", downsample(whole, limits.points), "c")] if whole else []
        chart = line_chart(
            curves,
            identity=f"{name}-{slug(stage.name)}-{len(drawn)}",
            title=clip(member.replace("_", " "), 60),
            unit=_FAMILIES[name][1],
        )
        drawn.append(tag("div", chart, class_="chart-cell"))
    return tag("div", drawn, class_="charts") if drawn else None


def router(value: Any, limits: Limits) -> Markup | None:
    """The load of every expert: a strip of cells per layer, warm above the mean, cold below."""
    report = next(iter(mappings(value)), {})
    layers, loads = report.get("layers"), report.get("loads")
    if not isinstance(layers, list | tuple) or not isinstance(loads, list | tuple):
        return None
    rows = [
        (layer, [number(load) or 0.0 for load in row])
        for layer, row in zip(layers, loads, strict=False)
        if isinstance(row, list | tuple) and row
    ]
    if not rows:
        return None
    width = max(len(row) for _, row in rows)
    each = -(-len(rows) * width // (limits.points * _CELLS_PER_POINT))
    shown = rows[::each]
    fullest = max(((max(row), layer) for layer, row in rows), key=lambda pair: pair[0])
    unused = sum(load == 0 for _, row in rows for load in row)
    told = f"The fullest expert, in layer {figure(fullest[1])}, has {fullest[0]:.2f} times the mean"
    told += f"; {unused:,} of {width * len(rows):,} experts had no token." if unused else "; every expert had tokens."
    strip = tag(
        "svg",
        [tag("path", d=path, class_=style) for style, path in _cells([row for _, row in shown]).items()],
        viewBox=f"0 0 {width} {len(shown)}",
        preserveAspectRatio="none",
        role="img",
        aria_label=told,
        style=f"height:{min(40 * len(shown), max(6 * len(shown), 120))}px",
        class_="heat",
    )
    axis = f"Experts from left to right, layers {figure(shown[0][0])} to {figure(shown[-1][0])} from top to bottom"
    axis += f", one of {each}" if each > 1 else ""
    step = number(report.get("step"))
    return join(
        tag("p", told, class_="stack-title"),
        strip,
        tag("p", f"{axis}{f', at step {figure(step)}' if step is not None else ''}.", class_="note"),
    )


def _cells(rows: Iterable[Sequence[float]]) -> dict[str, str]:
    """The cells of each colour as one path; full colour from twice the mean on, and at nothing."""
    paths: dict[str, list[str]] = {}
    for y, row in enumerate(rows):
        for x, load in enumerate(row):
            level = round(min(1.0, abs(load - 1)) * _LEVELS)
            if level:
                style = f"{'hot' if load > 1 else 'cold'}-{level}"
                paths.setdefault(style, []).append(f"M{x} {y}h1v1h-1z")
    return {style: "".join(cells) for style, cells in sorted(paths.items())}


def _scroll(content: Markup, label: str) -> Markup:
    return tag("div", content, class_="scroll", tabindex="0", role="group", aria_label=label)
