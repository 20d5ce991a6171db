"""Report sections about text: the funnel, what was dropped, samples of documents and of generations."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from tatara.tracking.limits import Limits, mappings, number
from tatara.tracking.markup import UNKNOWN, Markup, clip, count, figure, join, short, size, tag


def funnel(report: Mapping[str, Any]) -> Markup | None:
    """The funnel as a picture: documents to the left, bytes to the right of the middle line."""
    steps = mappings(report.get("stages"))
    if not steps:
        return None
    widths = {}
    for key in ("documents", "bytes"):
        values = [number(step.get(key)) or 0.0 for step in steps]
        top = max(values) or 1.0
        widths[key] = [max(0.0, value) / top * 100 for value in values]
    first = {key: number(steps[0].get(key)) for key in widths}
    rows = []
    for index, step in enumerate(steps):
        shape = _funnel_shape({key: (series[index], *series[index + 1 : index + 2]) for key, series in widths.items()})
        rows.append(
            tag(
                "li",
                tag("span", clip(step.get("name", ""), 80), class_="step-name"),
                tag("span", _quantity(step, "documents", first), class_="step-documents"),
                shape,
                tag("span", _quantity(step, "bytes", first), class_="step-bytes"),
            )
        )
    head = tag(
        "div",
        tag("span", "stage", class_="step-name"),
        tag("span", "documents", class_="step-documents"),
        tag("span", class_="funnel-shape"),
        tag("span", "bytes", class_="step-bytes"),
        class_="funnel-head",
        aria_hidden="true",
    )
    return join(head, tag("ol", rows, class_="funnel"))


def _quantity(step: Mapping[str, Any], key: str, first: Mapping[str, float | None]) -> Markup:
    value = step.get(key)
    if value is None:
        return tag("b", UNKNOWN)
    amount, whole = number(value), first[key]
    share = f"{amount / whole:.1%}" if amount is not None and whole else None
    shown = size(value) if key == "bytes" else join(count(value), tag("span", " documents", class_="narrow-only"))
    return join(tag("b", shown), tag("small", share) if share else None)


def _funnel_shape(widths: Mapping[str, Sequence[float]]) -> Markup:
    shapes = []
    for key, (here, *below) in widths.items():
        sign, style = (-1, "a") if key == "documents" else (1, "b")
        # A stage with anything left shows at least a sliver.
        here = max(here, 0.6 if here > 0 else 0.0)
        left = 100 - here if sign < 0 else 100
        shapes.append(tag("rect", x=left, y=0, width=here, height=60, class_=f"funnel-{style}"))
        if below:
            path = f"M100 60H{short(100 + sign * here)}L{short(100 + sign * below[0])} 100H100Z"
            shapes.append(tag("path", d=path, class_=f"funnel-{style} funnel-link"))
    return tag(
        "svg",
        shapes,
        viewBox="0 0 200 100",
        preserveAspectRatio="none",
        class_="funnel-shape",
        aria_hidden="true",
    )


def drop_reasons(report: Mapping[str, Any]) -> Markup | None:
    """Documents dropped by reason, largest first."""
    reasons = sorted(mappings(report.get("dropped")), key=lambda row: -(number(row.get("documents")) or 0.0))
    if not reasons:
        return None
    most = max(number(row.get("documents")) or 0.0 for row in reasons) or 1.0
    total = sum(number(row.get("documents")) or 0.0 for row in reasons) or 1.0
    rows = [
        tag(
            "tr",
            tag("th", clip(row.get("reason", ""), 80), scope="row"),
            tag(
                "td", tag("i", style=f"width:{short((number(row.get('documents')) or 0) / most * 100)}%"), class_="bar"
            ),
            tag("td", count(row.get("documents", UNKNOWN)), class_="number"),
            tag("td", f"{(number(row.get('documents')) or 0) / total:.1%}", class_="number muted"),
            tag("td", size(row["bytes"]) if row.get("bytes") is not None else UNKNOWN, class_="number muted"),
        )
        for row in reasons[:60]
    ]
    head = tag(
        "tr",
        tag("th", "reason", scope="col"),
        tag("th", tag("span", "share of what was dropped", class_="hidden"), scope="col", class_="bar"),
        tag("th", "documents", scope="col", class_="number"),
        tag("th", "share", scope="col", class_="number"),
        tag("th", "bytes", scope="col", class_="number"),
    )
    table = tag("table", tag("thead", head), tag("tbody", rows), class_="bars")
    return tag("div", table, class_="scroll", tabindex="0", role="group", aria_label="Drop reasons")


def document_samples(value: Any, limits: Limits) -> Markup | None:
    """Documents that were kept."""
    samples = mappings(value)[: limits.samples]
    if not samples:
        return None
    cards = [_sample(sample, ("language", "source"), limits) for sample in samples]
    return _first_and_rest(cards, 6, "documents")


def dropped_samples(value: Any, limits: Limits) -> Markup | None:
    """Documents that were dropped, by reason, with the value that decided."""
    by_reason: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for sample in mappings(value):
        by_reason[str(sample.get("reason", "unknown"))].append(sample)
    if not by_reason:
        return None
    each = max(1, limits.samples // len(by_reason), limits.samples // 6)
    groups = []
    for index, (reason, samples) in enumerate(list(by_reason.items())[: limits.rows]):
        cards = [_sample(sample, (), limits, with_value=True) for sample in samples[:each]]
        chip = tag("span", clip(reason, 80), class_="chip chip-bad")
        summary = tag("summary", chip, tag("span", f"{len(cards)} shown", class_="muted"))
        groups.append(tag("details", summary, tag("div", cards, class_="cards"), open=index == 0, class_="group"))
    return tag("div", groups, class_="groups")


def _sample(sample: Mapping[str, Any], chips: Sequence[str], limits: Limits, *, with_value: bool = False) -> Markup:
    value = sample.get("value")
    shown = value if isinstance(value, str) else figure(value)
    return tag(
        "article",
        tag(
            "header",
            tag("code", clip(sample.get("id", ""), limits.value), class_="sample-id"),
            [
                tag("span", clip(sample[chip], 60), class_="chip")
                for chip in chips
                if sample.get(chip) not in (None, "")
            ],
            tag("span", "measured ", tag("b", clip(shown, 80)), class_="muted")
            if with_value and value is not None
            else None,
        ),
        tag("p", clip(sample.get("excerpt", ""), limits.excerpt), class_="excerpt", dir="auto"),
        class_="sample",
    )


def generations(value: Any, limits: Limits) -> Markup | None:
    """What the model wrote: the prompt muted, the completion marked."""
    samples = mappings(value)[: limits.samples]
    if not samples:
        return None
    cards = [
        tag(
            "article",
            tag(
                "p",
                tag("span", "Prompt: ", class_="hidden"),
                tag("span", clip(sample.get("prompt", ""), limits.excerpt), class_="prompt"),
                tag("span", " Completion: ", class_="hidden"),
                tag("span", clip(sample.get("completion", ""), limits.excerpt), class_="completion"),
                dir="auto",
                class_="generation",
            ),
            tag("footer", tag("span", "stopped by ", sample["finish_reason"], class_="muted"))
            if sample.get("finish_reason")
            else None,
            class_="sample",
        )
        for sample in samples
    ]
    key = tag(
        "p",
        tag("span", "prompt", class_="prompt"),
        " ",
        tag("span", "completion", class_="completion"),
        class_="key-line",
    )
    return join(key, _first_and_rest(cards, 8, "generations"))


def _first_and_rest(cards: Sequence[Markup], shown: int, noun: str) -> Markup:
    first, rest = cards[:shown], cards[shown:]
    return join(
        tag("div", first, class_="cards"),
        tag("details", tag("summary", f"{len(rest)} more {noun}"), tag("div", rest, class_="cards"), class_="group")
        if rest
        else None,
    )
