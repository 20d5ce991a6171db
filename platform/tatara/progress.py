"""What long work shows: a bar on a terminal, plain lines elsewhere, events for a parent process.

A stage may run under `tatara run`, on this machine or as a job of a remote cluster. Its progress then reaches the
parent through its standard output, the one channel that both have: lines that start with `EVENT_PREFIX` and go on in
JSON. ``TATARA_EVENTS=1`` switches them on.
"""

import json
import os
import sys
import time
from typing import Any

EVENT_PREFIX = "::tatara:: "
_PLAIN_INTERVAL = 5.0
_EVENT_INTERVAL = 0.5


def parse_event(line: str) -> dict[str, Any] | None:
    """The event in a line of a stage's output, or None when it is an ordinary line."""
    if not line.startswith(EVENT_PREFIX):
        return None
    try:
        event = json.loads(line[len(EVENT_PREFIX) :])
    except ValueError:
        return None
    return event if isinstance(event, dict) else None


def duration(seconds: float) -> str:
    """Seconds as people read them: ``0.4 s``, ``48 s``, ``3 min 20 s``, ``2 h 05 min``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def size(count: float) -> str:
    """Bytes as people read them, in powers of 1000: ``12.3 MB``."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError("unreachable")


def figure(value: Any) -> str:
    """A figure for a progress line: five significant digits, thousands apart."""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def estimate(started: float, first: float, done: float, total: float, now: float) -> float | None:
    """Seconds left at the mean pace since the start (``first`` was done before it, by a run that was resumed)."""
    if done <= first or total <= 0:
        return None
    return max(0.0, (now - started) / (done - first) * (total - done))


class Progress:
    """Shows what one stage does."""

    def __init__(self, stage: str) -> None:
        self._stage = stage
        self._events = os.environ.get("TATARA_EVENTS") == "1"
        self._started: float | None = None
        self._first = 0.0
        self._shown = 0.0
        self._bar: Any = None
        self._task: Any = None

    def log(self, message: str) -> None:
        """One line (or several) about what happens."""
        for line in message.splitlines() or [""]:
            text = f"[{self._stage}] {line}"
            if self._bar is not None:
                self._bar.console.print(text, markup=False, highlight=False)
            else:
                print(text, flush=True)

    def update(self, done: float, total: float, unit: str, **figures: float | str) -> None:
        """Show how far the work is.

        Args:
            done: Units done.
            total: Units in all; 0 when it is not known.
            unit: What is counted, such as ``steps`` or ``documents``.
            **figures: What to show beside it, such as ``loss=3.2``.
        """
        now = time.monotonic()
        if self._started is None:
            self._started, self._first = now, done
        finished = total > 0 and done >= total
        left = estimate(self._started, self._first, done, total, now)
        if self._events:
            if finished or now - self._shown >= _EVENT_INTERVAL:
                self._shown = now
                event = {"done": done, "total": total, "unit": unit, "left": left, "figures": figures}
                print(EVENT_PREFIX + json.dumps({"progress": event}), flush=True)
        elif sys.stdout.isatty():
            self._draw(done, total, unit, figures)
        elif finished or now - self._shown >= _PLAIN_INTERVAL:
            self._shown = now
            print(f"[{self._stage}] {progress_line(done, total, unit, left, figures)}", flush=True)

    def _draw(self, done: float, total: float, unit: str, figures: dict[str, float | str]) -> None:
        from rich import progress as rich_progress

        if self._bar is None:
            columns = ("[bold]{task.description}", rich_progress.BarColumn(), "{task.fields[text]}")
            self._bar = rich_progress.Progress(*columns, rich_progress.TimeRemainingColumn(), transient=False)
            self._bar.start()
            self._task = self._bar.add_task(self._stage, total=total or None, text="")
        text = progress_line(done, total, unit, None, figures)
        self._bar.update(self._task, completed=done, total=total or None, text=text)

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def progress_line(done: float, total: float, unit: str, left: float | None, figures: dict[str, Any]) -> str:
    """Progress in words: ``120/300 steps, loss 3.21, about 48 s left``."""
    parts = [f"{figure(int(done))}/{figure(int(total))} {unit}" if total else f"{figure(int(done))} {unit}"]
    parts += [f"{name.replace('_', ' ')} {figure(value)}" for name, value in figures.items()]
    if left is not None and done < total:
        parts.append(f"about {duration(left)} left")
    return ", ".join(parts)
