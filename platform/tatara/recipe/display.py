"""What a user sees while a recipe runs: one live line per stage on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Callable
from typing import Any

from tatara.progress import progress_line

_PLAIN_INTERVAL = 10.0


class Display:
    """Shows the stages of a run."""

    def __init__(self, keys: list[str], say: Callable[[str], None]) -> None:
        self._say = say
        self._width = max(len(key) for key in keys)
        self._live: Any = None
        self._task: Any = None
        self._last = 0.0
        self._started = 0.0

    def line(self, text: str) -> None:
        """A line about the run."""
        if self._live is not None:
            self._live.console.print(text, markup=False, highlight=False)
        else:
            self._say(text)

    def stage_line(self, stage: str, line: str) -> None:
        """A line that a stage printed."""
        prefix = f"[{stage}] "
        if line.startswith(prefix):
            self.line(f"  {line.removeprefix(prefix)}")

    def start(self, key: str) -> None:
        """A stage starts."""
        self._started = self._last = time.monotonic()
        if sys.stdout.isatty():
            from rich import progress

            columns = ("{task.description}", progress.BarColumn(), "{task.fields[text]}")
            self._live = progress.Progress(*columns, progress.TimeElapsedColumn(), transient=True)
            self._live.start()
            self._task = self._live.add_task(key.ljust(self._width), total=None, text="starting")

    def progress(self, key: str, event: dict[str, Any]) -> None:
        """A stage says how far it is."""
        done, total = float(event.get("done", 0)), float(event.get("total", 0))
        text = progress_line(done, total, str(event.get("unit", "")), event.get("left"), event.get("figures", {}))
        if self._live is not None:
            self._live.update(self._task, completed=done, total=total or None, text=text)
        elif time.monotonic() - self._last >= _PLAIN_INTERVAL:
            self._last = time.monotonic()
            self._say(f"  {key}: {text}")

    def finish(self, key: str, text: str) -> None:
        """A stage ended well."""
        self.close()
        self.line(f"{key}: {text}")

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._live is not None:
            self._live.stop()
            self._live = None
