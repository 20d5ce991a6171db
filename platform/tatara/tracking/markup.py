"""HTML by construction: whatever is not ``Markup`` is text, and text is escaped."""

import html
import math
import re
import time
from collections.abc import Iterable
from typing import Any

# What XML cannot carry and a reader cannot see, and the lone surrogates that UTF-8 cannot encode.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\x80-\x9f\ud800-\udfff\ufffe\uffff]")
_VOID = frozenset({"br", "hr", "input", "meta", "link"})


UNKNOWN = "\u2013"
"""What stands where a figure is not known: a dash."""


class Markup(str):
    """A string that is HTML already."""

    __slots__ = ()


Child = str | int | float | None | Iterable["Child"]


def escape(text: object) -> Markup:
    """Text as HTML; control characters become the replacement character."""
    return Markup(html.escape(_UNPRINTABLE.sub("\ufffd", str(text)), quote=True))


def join(*children: Child) -> Markup:
    """Concatenate children: ``Markup`` as it is, ``None`` as nothing, iterables flattened, the rest escaped."""
    parts: list[str] = []
    for child in children:
        if child is None:
            continue
        if isinstance(child, Markup):
            parts.append(child)
        elif isinstance(child, str | int | float):
            parts.append(escape(child))
        else:
            parts.append(join(*child))
    return Markup("".join(parts))


def tag(name: str, /, *children: Child, **attributes: Any) -> Markup:
    """An element.

    Args:
        name: Element name.
        *children: As for ``join``.
        **attributes: ``class_`` is ``class``, other underscores are hyphens; ``True`` is a bare attribute, ``None`` and
            ``False`` are left out; floats are written short.
    """
    words = [name]
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        key = key.rstrip("_").replace("_", "-")
        if value is True:
            words.append(key)
        else:
            words.append(f'{key}="{escape(short(value) if isinstance(value, float) else value)}"')
    opening = f"<{' '.join(words)}>"
    if name in _VOID:
        return Markup(opening)
    return Markup(f"{opening}{join(*children)}</{name}>")


def short(value: float) -> str:
    """A coordinate with at most two decimals."""
    return f"{value:.2f}".rstrip("0").rstrip(".") if math.isfinite(value) else "0"


def clip(text: object, characters: int) -> str:
    """Cut long text, and say how much is missing."""
    text = str(text)
    if len(text) <= characters:
        return text
    return f"{text[:characters]}… ({len(text) - characters:,} more characters)"


def count(value: object) -> str:
    """A count with thousands separators; anything that is not a number as it is."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,.0f}" if math.isfinite(value) else str(value)


def figure(value: object) -> str:
    """A measured figure in about four digits."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if not math.isfinite(value):
        return str(value)
    if isinstance(value, int) or (value == int(value) and abs(value) < 1e15):
        return f"{int(value):,}"
    magnitude = abs(value)
    if magnitude >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}" if magnitude >= 1e-3 else f"{value:.2e}"


def size(value: object) -> str:
    """Bytes in binary units."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return str(value)
    amount = float(value)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(amount) < 1024:
            return f"{amount:,.0f} {unit}" if unit == "B" or abs(amount) >= 100 else f"{amount:,.1f} {unit}"
        amount /= 1024
    return f"{amount:,.1f} PiB"


def large(value: float) -> str:
    """A large count in short: 2.1 M, 8.0 B."""
    for limit, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e4, "K")):
        if abs(value) >= limit:
            return f"{value / (limit if unit != 'K' else 1e3):,.1f} {unit}"
    return f"{value:,.0f}"


def duration(seconds: float | None) -> str:
    """Seconds as 0.4 s, 12 s, 3 min 05 s or 2 h 10 min."""
    if seconds is None or not math.isfinite(seconds):
        return UNKNOWN
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def moment(seconds: float) -> str:
    """A point in time, in UTC."""
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))
