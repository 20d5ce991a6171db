"""Curves of a sweep as SVG that needs nothing else: a line per bound on staleness over the size of the cluster."""

from collections.abc import Callable, Sequence
from pathlib import Path

from tatara.errors import ConfigError
from tatara.rl.simulation.sweep import Point
from tatara.tracking.charts import Scale, axis_label, log_ticks, ticks
from tatara.tracking.markup import Child, Markup, join, tag

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 760.0, 400.0, 70.0, 130.0, 34.0, 50.0
_STYLE = (
    "svg{font:13px system-ui,sans-serif;background:#fff}text{fill:#333}.grid{stroke:#e4e4e4}"
    ".curve{fill:none;stroke-width:1.8}.caption{font-weight:600}"
)
_FIGURES: dict[str, tuple[str, str, Callable[[Point], float]]] = {
    "utilisation": (
        "Time of all devices spent generating or training",
        "share",
        lambda point: point.outcome.utilisation,
    ),
    "speed": ("Tokens of responses trained on", "tokens/s per device", lambda point: point.tokens_per_device),
    "wait": ("Time that the learner waits for a batch", "share", lambda point: point.outcome.learner["wait"]),
    "staleness": ("Updates since a rollout's first token", "mean", lambda point: point.outcome.mean_staleness),
    "split": ("Devices that generate, at the best split", "share", lambda point: point.rollout_devices / point.devices),
}


def curves_svg(points: Sequence[Point], figure: str) -> Markup:
    """One figure over the number of devices, a line per bound on staleness.

    Args:
        points: Of one sweep, at least one.
        figure: ``utilisation``, ``speed``, ``wait``, ``staleness`` or ``split``.
    """
    title, unit, value = _FIGURES[figure]
    sizes = sorted({point.devices for point in points})
    top = max(value(point) for point in points)
    x = Scale(sizes[0] / 1.1, sizes[-1] * 1.1, log=True)
    y = Scale(0.0, 1.0 if unit == "share" else top * 1.08 or 1.0)
    drawn: list[Child] = [_grid(x, y, title, unit)]
    bounds = sorted({point.staleness for point in points})
    for index, bound in enumerate(bounds):
        colour = f"hsl({215 + 135 * index / max(1, len(bounds) - 1):.0f} 60% 45%)"
        line = sorted((point.devices, value(point)) for point in points if point.staleness == bound)
        places = [_at(x, y, *place) for place in line]
        path = "M" + "L".join(f"{across:.1f} {down:.1f}" for across, down in places)
        drawn.append(tag("path", d=path, class_="curve", stroke=colour))
        drawn += [tag("circle", cx=across, cy=down, r=3.2, fill=colour) for across, down in places]
        key = _TOP + 14 + 20 * index
        drawn.append(tag("circle", cx=_WIDTH - _RIGHT + 16, cy=key - 4, r=4.0, fill=colour))
        drawn.append(tag("text", f"staleness {bound}", x=_WIDTH - _RIGHT + 26, y=key))
    return tag(
        "svg",
        tag("style", Markup(_STYLE)),
        drawn,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {_WIDTH:.0f} {_HEIGHT:.0f}",
        width=f"{_WIDTH:.0f}",
        role="img",
        aria_label=f"{title} ({unit}) from {sizes[0]} to {sizes[-1]} devices at {len(bounds)} bounds on staleness.",
    )


def _at(x: Scale, y: Scale, across: float, up: float) -> tuple[float, float]:
    """Where a point lies, in pixels."""
    return (
        _LEFT + x.at(across) / 1000 * (_WIDTH - _LEFT - _RIGHT),
        _HEIGHT - _BOTTOM - y.at(up) / 1000 * (_HEIGHT - _BOTTOM - _TOP),
    )


def _grid(x: Scale, y: Scale, title: str, unit: str) -> Markup:
    parts: list[Child] = []
    for value in log_ticks(x.low, x.high):
        across, _ = _at(x, y, value, y.low)
        parts.append(tag("line", x1=across, x2=across, y1=_TOP, y2=_HEIGHT - _BOTTOM, class_="grid"))
        parts.append(tag("text", f"{value:,.0f}", x=across, y=_HEIGHT - _BOTTOM + 18, text_anchor="middle"))
    upwards = ticks(y.low, y.high)
    for value in upwards:
        _, down = _at(x, y, x.low, value)
        parts.append(tag("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=down, y2=down, class_="grid"))
        parts.append(tag("text", axis_label(value, upwards), x=_LEFT - 8, y=down + 4, text_anchor="end"))
    parts.append(tag("text", title, x=_LEFT, y=20.0, class_="caption"))
    parts.append(tag("text", "devices", x=(_LEFT + _WIDTH - _RIGHT) / 2, y=_HEIGHT - 10, text_anchor="middle"))
    turned = f"rotate(-90 14 {_HEIGHT / 2:.0f})"
    parts.append(tag("text", unit, x=14.0, y=_HEIGHT / 2, text_anchor="middle", transform=turned))
    return join(parts)


def write_plots(points: Sequence[Point], directory: str | Path) -> list[Path]:
    """Write each figure as an SVG file into a directory, which is made.

    Raises:
        ConfigError: The directory cannot be written.
    """
    written = []
    for figure in _FIGURES:
        path = Path(directory) / f"{figure}.svg"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{curves_svg(points, figure)}\n", encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"cannot write {path}: {error}") from None
        written.append(path)
    return written
