"""What the trainer says while it runs: one JSON line per event in a file that the driver follows.

A file and not a queue: it survives every process, needs no resources, and costs a training step microseconds.
"""

import json
import os
import time
from pathlib import Path
from typing import Any


class EventWriter:
    """Appends events; for one process at a time."""

    def __init__(self, path: Path) -> None:
        """Open a file to append to; a line that a killed writer left torn is closed first."""
        torn = _ends_torn(path)
        self._stream = open(path, "a", encoding="utf-8")  # noqa: SIM115
        if torn:
            self._stream.write("\n")

    def write(self, kind: str, **values: Any) -> None:
        """Append one event with the present time in seconds."""
        self._stream.write(json.dumps({"kind": kind, "time": time.time(), **values}) + "\n")
        self._stream.flush()

    def close(self) -> None:
        """Close the file."""
        self._stream.close()


class EventReader:
    """Follows a file of events that may not be there yet."""

    def __init__(self, path: Path) -> None:
        """Start at the beginning of the file."""
        self._path = path
        self._offset = 0

    def read(self) -> list[dict[str, Any]]:
        """The events that were completed since the last call."""
        try:
            with open(self._path, "rb") as stream:
                stream.seek(self._offset)
                fresh = stream.read()
        except FileNotFoundError:
            return []
        whole = fresh[: fresh.rfind(b"\n") + 1]
        self._offset += len(whole)
        return [event for event in map(_parse, whole.splitlines()) if event is not None]


def _ends_torn(path: Path) -> bool:
    if not path.exists() or path.stat().st_size == 0:
        return False
    with open(path, "rb") as stream:
        stream.seek(-1, os.SEEK_END)
        return stream.read(1) != b"\n"


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        event = json.loads(line)
    except ValueError:
        # Torn by a kill in the middle of a write.
        return None
    return event if isinstance(event, dict) else None
