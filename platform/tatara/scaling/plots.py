"""Pictures of a fit as SVG that needs nothing else: IsoFLOP curves with their minima, and the law through them."""

import math
from collections.abc import Sequence

from tatara.scaling.isoflop import IsoFlop, Parabola
from tatara.scaling.laws import words
from tatara.scaling.prediction import Analysis, Prediction
from tatara.tracking.charts import Scale, axis_label, log_ticks, ticks
from tatara.tracking.markup import Child, Markup, figure, join, tag

_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 760.0, 430.0, 70.0, 50.0, 34.0
_STYLE = (
    "svg{font:13px system-ui,sans-serif;background:#fff}text{fill:#333}.grid{stroke:#e4e4e4}.axis{stroke:#888}"
    ".curve{fill:none;stroke-width:1.8}.law{fill:none;stroke:#b3261e;stroke-width:1.8;stroke-dasharray:6 4}"
    ".bar{stroke:#b3261e;stroke-width:1.4}.best{fill:#b3261e}.caption{font-weight:600}"
)
_POINTS = 48


class _Frame:
    """A plot's axes: places values, and draws grid and labels."""

    def __init__(self, x: Sequence[float], y: Sequence[float], *, log_y: bool) -> None:
        room = (max(x) / min(x)) ** 0.04
        self.x = Scale(min(x) / room, max(x) * room, log=True)
        spread = (max(y) - min(y)) * 0.08 or abs(max(y)) * 0.05
        ratio = (max(y) / min(y)) ** 0.05 if log_y else 1.0
        self.y = Scale(min(y) / ratio, max(y) * ratio, log=True) if log_y else Scale(min(y) - spread, max(y) + spread)

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Where a point lies, in pixels."""
        across, up = self.x.at(x) / 1000, self.y.at(y) / 1000
        return _LEFT + across * (_WIDTH - _LEFT - 16), _HEIGHT - _BOTTOM - up * (_HEIGHT - _BOTTOM - _TOP)

    def path(self, points: Sequence[tuple[float, float]]) -> str:
        """A line through points, as the ``d`` of a path."""
        return "M" + "L".join("{:.1f} {:.1f}".format(*self.at(x, y)) for x, y in points)

    def grid(self, title: str, x_label: str, y_label: str) -> Markup:
        """Grid, labels and captions."""
        parts: list[Child] = []
        across = log_ticks(self.x.low, self.x.high)
        upwards = log_ticks(self.y.low, self.y.high) if self.y.log else ticks(self.y.low, self.y.high)
        for value in across:
            x, _ = self.at(value, self.y.low)
            parts.append(tag("line", x1=x, x2=x, y1=_TOP, y2=_HEIGHT - _BOTTOM, class_="grid"))
            parts.append(tag("text", f"{value:.3g}", x=x, y=_HEIGHT - _BOTTOM + 18, text_anchor="middle"))
        for value in upwards:
            _, y = self.at(self.x.low, value)
            label = f"{value:.3g}" if self.y.log else axis_label(value, upwards)
            parts.append(tag("line", x1=_LEFT, x2=_WIDTH - 16, y1=y, y2=y, class_="grid"))
            parts.append(tag("text", label, x=_LEFT - 8, y=y + 4, text_anchor="end"))
        parts.append(tag("text", title, x=_LEFT, y=20.0, class_="caption"))
        parts.append(tag("text", x_label, x=_WIDTH / 2, y=_HEIGHT - 10, text_anchor="middle"))
        turned = f"rotate(-90 14 {_HEIGHT / 2:.0f})"
        parts.append(tag("text", y_label, x=14.0, y=_HEIGHT / 2, text_anchor="middle", transform=turned))
        return join(parts)


def _svg(label: str, *children: Child) -> Markup:
    return tag(
        "svg",
        tag("style", Markup(_STYLE)),
        children,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {_WIDTH:.0f} {_HEIGHT:.0f}",
        width=f"{_WIDTH:.0f}",
        role="img",
        aria_label=label,
    )


def isoflop_svg(side: IsoFlop) -> Markup | None:
    """Loss over tokens or parameters, a curve for each budget, with minima; None where there is no parabola."""
    if not side.parabolas:
        return None
    x = [getattr(run, side.axis) for parabola in side.parabolas for run in parabola.runs]
    y = [run.loss for parabola in side.parabolas for run in parabola.runs]
    frame = _Frame(x, y, log_y=False)
    drawn: list[Child] = [frame.grid("IsoFLOP curves", side.axis, "loss, nats per token")]
    for index, parabola in enumerate(side.parabolas):
        colour = f"hsl({215 + 105 * index / max(1, len(side.parabolas) - 1):.0f} 55% 45%)"
        drawn += _curve(frame, parabola, colour)
    return _svg(f"Loss over {side.axis} at {len(side.parabolas)} budgets.", drawn)


def _curve(frame: _Frame, parabola: Parabola, colour: str) -> list[Child]:
    places = [getattr(run, parabola.axis) for run in parabola.runs]
    low, high = math.log(min(places)), math.log(max(places))
    line = [math.exp(low + (high - low) * step / _POINTS) for step in range(_POINTS + 1)]
    shown = [(place, parabola.at(place)) for place in line]
    drawn: list[Child] = [tag("path", d=frame.path(shown), class_="curve", stroke=colour)]
    for run, place in zip(parabola.runs, places, strict=True):
        x, y = frame.at(place, run.loss)
        drawn.append(tag("circle", cx=x, cy=y, r=3.2, fill=colour))
    x, y = frame.at(*max(shown))
    drawn.append(tag("text", f"{parabola.budget:.2g}", x=min(x + 4, _WIDTH - 46), y=y - 6, fill=colour))
    if not parabola.problem:
        x, y = frame.at(parabola.best.value, parabola.loss.value)
        drawn.append(tag("circle", cx=x, cy=y, r=5.0, class_="best"))
    return drawn


def law_svg(side: IsoFlop, predictions: Sequence[Prediction] = ()) -> Markup | None:
    """Best tokens or parameters over compute with the law through them; None where there is no law."""
    law = side.law
    if law is None:
        return None
    counted = [parabola for parabola in side.parabolas if not parabola.problem]
    budgets = [parabola.budget for parabola in counted] + [prediction.compute for prediction in predictions]
    line = [min(budgets), max(budgets)]
    values = [law.at(budget) for budget in line]
    y = [edge for value in values for edge in (value.low, value.high)]
    y += [edge for parabola in counted for edge in (parabola.best.low, parabola.best.high)]
    frame = _Frame(line, [value for value in y if math.isfinite(value) and value > 0], log_y=True)
    title = f"best {side.axis} = {law.coefficient:.3g} x compute^{law.exponent:.3f}"
    drawn: list[Child] = [frame.grid(title, "compute, FLOPs", f"best {side.axis}")]
    drawn.append(tag("path", d=frame.path([(x, law.at(x).value) for x in line]), class_="law"))
    for parabola in counted:
        x, y_low = frame.at(parabola.budget, max(parabola.best.low, frame.y.low))
        _, y_high = frame.at(parabola.budget, min(parabola.best.high, frame.y.high))
        drawn.append(tag("line", x1=x, x2=x, y1=y_low, y2=y_high, class_="bar"))
        x, y_best = frame.at(parabola.budget, parabola.best.value)
        drawn.append(tag("circle", cx=x, cy=y_best, r=4.0, class_="best"))
    return _svg(title, drawn)


def page(analysis: Analysis, predictions: Sequence[Prediction]) -> str:
    """Everything on one HTML page that needs no network."""
    parts: list[Child] = []
    for side in (analysis.tokens, analysis.parameters):
        parts += [isoflop_svg(side), law_svg(side, predictions)]
    rows = [
        tag("tr", [tag("td", cell) for cell in (item.method, figure(item.compute), *_cells(item))])
        for item in predictions
    ]
    columns = ("method", "compute", "parameters", "tokens", "loss")
    head = tag("tr", [tag("th", name) for name in columns])
    warnings = tag("ul", [tag("li", line) for line in analysis.warnings]) if analysis.warnings else None
    style = "body{font:15px system-ui,sans-serif;margin:2rem;max-width:60rem}td,th{padding:.2rem .8rem;text-align:left}"
    content = tag(
        "body",
        tag("h1", "Scaling laws"),
        tag("p", f"{len(analysis.runs)} runs; intervals hold 95 % of the draws."),
        tag("table", head, rows) if rows else None,
        warnings,
        parts,
    )
    top = tag("head", tag("meta", charset="utf-8"), tag("title", "Scaling laws"), tag("style", Markup(style)))
    return f"<!doctype html>\n{tag('html', top, content, lang='en')}\n"


def _cells(item: Prediction) -> list[str]:
    return [words(value) for value in (item.parameters, item.tokens, item.loss)]
