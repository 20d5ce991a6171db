"""Prompts and sampled responses with what they were rewarded.

A stage reports ``rl_transcripts``, a list of ``prompt`` (text, messages with ``role`` and ``content``, or a number),
``response``, ``reward``, ``parts`` (reward to value), ``errors`` (reward to line), ``finish``, ``tokens``, ``versions``
(of first and last token), ``purpose`` (``train`` or ``evaluate``), and ``batch`` or ``version``; all are optional.
"""

from collections.abc import Mapping
from typing import Any

from tatara.tracking.limits import Limits, mappings, number
from tatara.tracking.markup import Markup, clip, figure, join, tag
from tatara.tracking.run_sections import as_text

_OPEN = 2
"""Transcripts that are not folded away."""


def transcripts(value: Any, limits: Limits) -> Markup | None:
    """The latest first, folded away but for the first ones."""
    given = mappings(value)[-limits.samples :][::-1]
    drawn = [_transcript(row, limits, opened=index < _OPEN) for index, row in enumerate(given)]
    return tag("div", drawn, class_="transcripts") if drawn else None


def _transcript(row: Mapping[str, Any], limits: Limits, *, opened: bool) -> Markup:
    reward = number(row.get("reward"))
    place = next((f"{key} {figure(row[key])}" for key in ("batch", "version") if number(row.get(key)) is not None), "")
    notes = [clip(note, 60) for note in (row.get("purpose", ""), place, row.get("finish", "")) if note]
    tokens = number(row.get("tokens"))
    notes += [f"{figure(tokens)} tokens"] if tokens is not None else []
    notes += [f"prompt {figure(row['prompt'])}"] if number(row.get("prompt")) is not None else []
    versions = row.get("versions")
    if isinstance(versions, list | tuple) and len(versions) == 2 and versions[0] != versions[1]:
        notes.append(clip(f"versions {as_text(versions[0])} to {as_text(versions[1])}", 60))
    summary = tag(
        "summary",
        tag("span", f"reward {figure(reward)}" if reward is not None else "no reward"),
        tag("span", ", ".join(notes), class_="muted"),
    )
    return tag(
        "details",
        summary,
        tag("div", _scores(row, limits), _text(row, limits), class_="transcript"),
        open=opened,
        class_="group",
    )


def _scores(row: Mapping[str, Any], limits: Limits) -> Markup | None:
    parts, errors = row.get("parts"), row.get("errors")
    chips = [
        tag(
            "span", f"{clip(name, 60)} {figure(value) if number(value) is not None else clip(value, 60)}", class_="chip"
        )
        for name, value in (list(parts.items())[: limits.rows] if isinstance(parts, Mapping) else ())
    ]
    lines = [
        tag("p", f"{clip(name, 60)}: {clip(line, limits.value)}", class_="note bad")
        for name, line in (list(errors.items())[: limits.rows] if isinstance(errors, Mapping) else ())
    ]
    return join(tag("p", chips, class_="chips") if chips else None, lines) or None


def _text(row: Mapping[str, Any], limits: Limits) -> Markup:
    prompt = row.get("prompt", "")
    if number(prompt) is not None:  # A prompt that is known by its number alone.
        prompt = ""
    messages = mappings(prompt) if isinstance(prompt, list | tuple) else []
    if messages:
        prompt = "\n".join(f"{as_text(each.get('role', ''))}: {as_text(each.get('content', ''))}" for each in messages)
    return tag(
        "p",
        tag("span", "Prompt: ", class_="hidden"),
        tag("span", clip(as_text(prompt), limits.excerpt), class_="prompt"),
        "\n",
        tag("span", " Response: ", class_="hidden"),
        tag("span", clip(as_text(row.get("response", "")), limits.excerpt), class_="completion"),
        dir="auto",
        class_="generation",
    )
