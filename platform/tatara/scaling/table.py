"""Tables of runs: CSV or JSON lines, one run per line, checked line by line."""

import csv
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tatara.config import nearest
from tatara.errors import ConfigError, DataError
from tatara.model.sizing import parse_count

PER_PARAMETER = 6.0
"""FLOPs per parameter and token where a table has no compute of its own (arXiv:2001.08361 section 2.1)."""
_COLUMNS = ("parameters", "tokens", "compute", "loss")
_ALIASES = {"n": "parameters", "params": "parameters", "d": "tokens", "c": "compute", "flops": "compute"}


@dataclass(frozen=True)
class Run:
    """One training run.

    Attributes:
        parameters: Of the model.
        tokens: It was trained on.
        compute: FLOPs that took.
        loss: In nats per token.
        line: Where it stands in its table, from 1.
        more: What else the table says of it.
    """

    parameters: float
    tokens: float
    compute: float
    loss: float
    line: int = 0
    more: Mapping[str, Any] = field(default_factory=dict)


def read_rows(path: str | Path) -> list[tuple[int, dict[str, Any]]]:
    """Rows of a table with their line numbers, column names in lower case.

    Raises:
        DataError: There is no such file, it is empty, or a line cannot be read.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    rows = list(_json_rows(path, text) if text.lstrip().startswith("{") else _csv_rows(path, text))
    if not rows:
        raise DataError(f"{path} holds no runs")
    return rows


def _json_rows(path: str | Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{path}:{number}: not JSON: {error.msg}") from None
        if not isinstance(row, dict):
            raise DataError(f'{path}:{number}: a row is an object, such as {{"tokens": 1e9, "loss": 3.1}}')
        yield number, {str(key).strip().lower(): value for key, value in row.items()}


def _csv_rows(path: str | Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    lines = [line for line in enumerate(text.splitlines(), 1) if line[1].strip() and not line[1].startswith("#")]
    reader = csv.reader(io.StringIO("\n".join(line for _, line in lines)))
    header: list[str] = []
    for (number, _), cells in zip(lines, reader, strict=True):
        if not header:
            header = [cell.strip().lower() for cell in cells]
            continue
        if len(cells) != len(header):
            raise DataError(f"{path}:{number}: {len(cells)} cells, but the header has {len(header)}")
        yield number, dict(zip(header, cells, strict=True))


def number(path: str | Path, line: int, name: str, value: Any) -> float:
    """A cell as a positive number; ``1.2e9`` and ``50M`` both do.

    Raises:
        DataError: It is not one; the message names file, line and column.
    """
    try:
        found = float(value)
    except (TypeError, ValueError):
        try:
            found = float(parse_count(str(value)))
        except ConfigError:
            raise DataError(f"{path}:{line}: {name} {value!r} is not a number") from None
    if not 0 < found < math.inf:
        raise DataError(f"{path}:{line}: {name} is {found}, not a positive number: leave the line out or correct it")
    return found


def read_runs(path: str | Path) -> list[Run]:
    """Runs of a table with the columns ``loss`` and two of ``parameters``, ``tokens`` and ``compute``.

    The third is 6 x parameters x tokens = compute where it is missing.

    Raises:
        DataError: A column is missing or a cell is no positive number; the message names the line.
    """
    runs = []
    for line, row in read_rows(path):
        named = {_ALIASES.get(key, key): value for key, value in row.items()}
        given = {key: number(path, line, key, named[key]) for key in _COLUMNS if named.get(key) not in (None, "")}
        if "loss" not in given:
            raise DataError(f"{path}:{line}: no loss; {nearest('loss', named)}")
        if len(given) < 3:
            raise DataError(f"{path}:{line}: two of parameters, tokens and compute are needed")
        more = {key: value for key, value in named.items() if key not in _COLUMNS}
        runs.append(complete(given, line, more))
    return runs


def complete(given: Mapping[str, float], line: int = 0, more: Mapping[str, Any] | None = None) -> Run:
    """A run with the missing one of parameters, tokens and compute filled in."""
    found = dict(given)
    if "compute" not in found:
        found["compute"] = PER_PARAMETER * found["parameters"] * found["tokens"]
    if "tokens" not in found:
        found["tokens"] = found["compute"] / (PER_PARAMETER * found["parameters"])
    if "parameters" not in found:
        found["parameters"] = found["compute"] / (PER_PARAMETER * found["tokens"])
    return Run(found["parameters"], found["tokens"], found["compute"], found["loss"], line, more or {})


def write_runs(path: str | Path, runs: Sequence[Run]) -> None:
    """Write a table that `read_runs` reads."""
    columns = sorted({key for run in runs for key in run.more})
    with Path(path).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([*_COLUMNS, *columns])
        for run in runs:
            cells = [f"{value:.8g}" for value in (run.parameters, run.tokens, run.compute, run.loss)]
            writer.writerow([*cells, *(run.more.get(key, "") for key in columns)])
