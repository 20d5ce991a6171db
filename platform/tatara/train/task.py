"""What the driver of a training run and its workers agree on: the task, and the files of the work directory."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CHECKPOINTS = "checkpoints"
EVENTS = "events.jsonl"
HANGS = "hangs"
ROLLBACKS = "rollbacks.json"


@dataclass(frozen=True)
class WorkerTask:
    """Everything a rank needs to know; plain values, so that it travels."""

    config: dict[str, Any]
    spec: dict[str, Any]
    sources: dict[str, str]
    """URL of each source's tokens artifact by the source's name."""
    initial: str | None
    """URL of the checkpoint artifact to start from."""
    tokenizer: str
    """SHA-256 of the sources' tokenizer."""
    work: str

    @property
    def checkpoints(self) -> str:
        """Where checkpoints go, a path or URL."""
        return str(self.config["checkpoints"] or Path(self.work) / CHECKPOINTS)


def read_losses(path: Path) -> Iterator[dict[str, Any]]:
    """Records of a ``losses.jsonl``: training steps have ``loss``, validations ``validation_loss``."""
    with open(path, encoding="utf-8") as stream:
        for line in stream:
            yield json.loads(line)
