"""The metric log: one JSON line per step on disk always, Weights & Biases beside it where it is installed."""

import json
import math
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tatara.errors import DataError, StorageError
from tatara.tracking.wandb_sink import WandbSink, open_sink, warn_by_logging

RESERVED = ("step", "time")


class MetricLog:
    """Appends the metrics of one stage to a JSONL file, and mirrors them to Weights & Biases.

    Every line goes to the file in one unbuffered write, so a killed process loses nothing that was logged; what a
    kill in the middle of a write leaves behind is cut off when the file is opened again. Weights & Biases starts at the
    first ``log`` call, runs in a process of its own, and can neither delay nor fail the caller.

    A line is ``{"step": int, "time": seconds since the epoch, **values}``. NaN and the infinities, which JSON does not
    have, are written as the strings ``"NaN"``, ``"Infinity"`` and ``"-Infinity"``.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        project: str,
        run_name: str,
        config: Mapping[str, Any],
        wandb_mode: str = "auto",
        warn: Callable[[str], None] = warn_by_logging,
    ) -> None:
        """Open the log for appending; its directory is made.

        Args:
            path: Local path of the JSONL file. Weights & Biases keeps its run directory beside it, unless
                ``WANDB_DIR`` says otherwise.
            project: Weights & Biases project.
            run_name: Weights & Biases run name, for example ``"quickstart/pretrain"``.
            config: The resolved config, as JSON-able values.
            wandb_mode: ``"auto"`` (online with a key, offline without), ``"online"``, ``"offline"`` or ``"disabled"``.
                ``WANDB_MODE`` in the environment narrows ``"auto"``; without a key nothing goes to the network.
            warn: Receives the one line that says that Weights & Biases does not work.

        Raises:
            StorageError: The file cannot be opened for writing.
            ConfigError: ``wandb_mode`` is not one of the above.
        """
        if "://" in str(path):
            raise StorageError(f"a metric log is appended to, so it needs a local path: {path}")
        self.path = Path(path)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            _cut_torn_line(self.path)
            self._descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        except OSError as error:
            raise StorageError(f"cannot write the metric log {self.path}: {error.strerror}") from error
        self._lock = threading.Lock()
        self._closed = False
        self._sink: WandbSink | None = open_sink(
            directory=self.path.parent, project=project, run_name=run_name, config=config, mode=wandb_mode, warn=warn
        )

    def log(self, step: int, **values: float) -> None:
        """Record values at a step.

        Args:
            step: What the x axis counts; it may go back when a resumed run repeats steps.
            **values: Numbers (Python, NumPy or one-element tensors) by metric name, for example
                ``**{"train.loss": 2.5}``.

        Raises:
            StorageError: The file cannot be written.
            TypeError: A value is not a number.
            ValueError: A metric is called ``time``, or the log is closed.
        """
        numbers = {name: _number(name, value) for name, value in values.items()}
        line = json.dumps(
            {"step": int(step), "time": round(time.time(), 3)} | {k: _to_json(v) for k, v in numbers.items()}
        )
        with self._lock:
            if self._closed:
                raise ValueError(f"the metric log {self.path} is closed")
            try:
                _write_all(self._descriptor, line.encode() + b"\n")
            except OSError as error:
                raise StorageError(f"cannot write the metric log {self.path}: {error.strerror}") from error
            if self._sink is not None:
                self._sink.send(line)

    def table(self, step: int, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Show a table in Weights & Biases, such as samples of text; the file has numbers only and does not get it.

        Args:
            step: What the x axis counts.
            name: Name of the table.
            columns: Their names.
            rows: JSON-able cells, as many as columns.

        Raises:
            TypeError: A cell is not JSON-able.
            ValueError: The log is closed.
        """
        line = json.dumps({"step": int(step), "table": name, "columns": list(columns), "rows": [list(r) for r in rows]})
        with self._lock:
            if self._closed:
                raise ValueError(f"the metric log {self.path} is closed")
            if self._sink is not None:
                self._sink.send(line)

    def close(self) -> None:
        """Flush to disk and let Weights & Biases finish, for a bounded time; closing twice is fine."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            os.fsync(self._descriptor)
            os.close(self._descriptor)
        if self._sink is not None:
            self._sink.close()

    def __enter__(self) -> "MetricLog":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_metrics(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Read a metric log, in the order in which it was written.

    A torn last line (its writer was killed) is left out. A resumed run repeats steps: the later line is the valid one.

    Returns:
        One dict per line: ``step`` (int), ``time`` (seconds since the epoch) and floats by metric name.

    Raises:
        StorageError: The file cannot be read.
        DataError: A line other than the last is not a metric line.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise StorageError(f"cannot read the metric log {path}: {error.strerror}") from error
    rows: list[dict[str, Any]] = []
    # What follows the last newline is empty, or torn.
    for number, line in enumerate(content.split(b"\n")[:-1], start=1):
        try:
            row = json.loads(line)
            rows.append(
                {name: value if name in RESERVED else float(value) for name, value in row.items()}
                | {"step": int(row["step"])}
            )
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise DataError(f"{path}, line {number} is not a metric line: {line[:80]!r}") from error
    return rows


def _number(name: str, value: object) -> float:
    if name in RESERVED:
        raise ValueError(f"a metric cannot be called {name!r}: the log writes it itself")
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise TypeError(f"metric {name!r} is not a number: {value!r}") from error


def _to_json(value: float) -> float | str:
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")


def _write_all(descriptor: int, content: bytes) -> None:
    while content:
        content = content[os.write(descriptor, content) :]


def _cut_torn_line(path: Path) -> None:
    """Drop what follows the last newline, so that the next line does not continue a torn one."""
    if not path.exists():
        return
    with path.open("r+b") as file:
        size = end = file.seek(0, os.SEEK_END)
        while end > 0:
            start = max(0, end - 65536)
            file.seek(start)
            newline = file.read(end - start).rfind(b"\n")
            if newline >= 0:
                end = start + newline + 1
                break
            end = start
        if end != size:
            file.truncate(end)
