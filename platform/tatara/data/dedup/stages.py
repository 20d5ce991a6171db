"""Passes of tasks over files that can be stopped at any moment and go on where they were."""

import json
import os
import shutil
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any
from uuid import uuid4

from tatara.data.dedup.records import write_atomically
from tatara.data.steps import FanOut
from tatara.errors import DataError

Task = Callable[[dict[str, Any], Path], dict[str, Any]]
"""Takes an item and an empty directory to fill; returns figures, JSON-able."""
_KEPT = ("collected", "living", "verdicts", "dropped")


def run_stage(
    directory: Path, function: Task, items: Sequence[dict[str, Any]], fan_out: FanOut
) -> list[dict[str, Any]]:
    """Run a task for every item; each fills a directory that appears under its number when it is whole.

    After an interruption only tasks whose directory is missing run again, on the items of the first attempt.

    Args:
        directory: The pass's own; its tasks' directories are ``000000``, ``000001``, ...
        function: A module-level function or a `partial` of one.
        items: Literals.
        fan_out: Runs the tasks.

    Returns:
        What each task returned, in the order of the items.
    """
    finished = directory / "results.json"
    if finished.exists():
        found: list[dict[str, Any]] = json.loads(finished.read_text())
        return found
    directory.mkdir(parents=True, exist_ok=True)
    plan = directory / "plan.json"
    if not plan.exists():
        write_atomically(plan, json.dumps(list(items)).encode())
    items = json.loads(plan.read_text())
    named = [{"item": json.dumps(item), "output": str(task_directory(directory, i))} for i, item in enumerate(items)]
    missing = [item for item in named if not Path(item["output"]).exists()]
    for _ in fan_out(partial(_run_task, function), missing):
        pass
    results = [json.loads((Path(item["output"]) / "result.json").read_text()) for item in named]
    write_atomically(finished, json.dumps(results).encode())
    return results


def task_directory(directory: Path, index: int) -> Path:
    """Where a pass's task leaves its files."""
    return directory / f"{index:06d}"


def discard(directory: Path) -> None:
    """Remove what a pass's tasks left, not the knowledge that it is done."""
    for path in directory.glob("[0-9]*"):
        shutil.rmtree(path, ignore_errors=True)
    for path in directory.glob(".*"):
        shutil.rmtree(path, ignore_errors=True)


def _run_task(function: Task, item: dict[str, Any]) -> int:
    output = Path(item["output"])
    if output.exists():
        return 0
    temporary = output.with_name(f".{output.name}-{uuid4().hex}")
    temporary.mkdir()
    result = function(json.loads(item["item"]), temporary)
    (temporary / "result.json").write_text(json.dumps(result))
    adopt(temporary, output)
    return 1


def adopt(temporary: Path, output: Path) -> None:
    """Give a finished directory its name; if another attempt was faster, its work stays and this one's goes."""
    try:
        os.rename(temporary, output)
    except OSError:
        if not output.is_dir():
            raise
        shutil.rmtree(temporary)


def tidy(directory: Path) -> None:
    """Remove the passes of a step whose decision is written, but for keys and verdicts."""
    for path in directory.iterdir():
        if path.is_dir() and path.name not in _KEPT:
            shutil.rmtree(path, ignore_errors=True)
    for path in directory.glob("collected/.*"):  # of attempts that were killed
        shutil.rmtree(path, ignore_errors=True)


def read_decision(directory: Path, step: str) -> dict[str, Any]:
    """What a step noted when it had decided; the same object as long as the file stays.

    Raises:
        DataError: It has not decided yet.
    """
    path = directory / "decision.json"
    try:
        return _read_json(str(path), path.stat().st_mtime_ns)
    except FileNotFoundError:
        raise DataError(f"{step}: nothing has been decided in {directory} yet") from None


@lru_cache(maxsize=32)
def _read_json(path: str, written: int) -> dict[str, Any]:
    # Tasks ask for every shard in turn; with many shards the file is not small.
    found: dict[str, Any] = json.loads(Path(path).read_text())
    return found
