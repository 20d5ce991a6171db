"""What a process keeps about its connection to Ray, and how it sets its environment up."""

import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import tatara


@dataclass(frozen=True)
class Session:
    """A connection that this process opened."""

    owned: bool
    """Whether the cluster ends with it."""
    environment: Mapping[str, str | None]
    """What the environment variables that were set for it held before."""
    temp: Path | None = None
    """Directory of a private cluster."""
    guardian: "subprocess.Popen[bytes] | None" = None
    """The process that ends a private cluster if this one is killed."""


def set_environment(settings: Mapping[str, str | None]) -> dict[str, str | None]:
    """Set environment variables (None: remove) and return what they held before."""
    before = {name: os.environ.get(name) for name in settings}
    for name, value in settings.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    return before


def source_root() -> Path | None:
    """The directory workers need on their path to import this very ``tatara``; None where it is installed."""
    root = Path(tatara.__file__).resolve().parent.parent
    return None if root.name in ("site-packages", "dist-packages") else root


def first_line(error: BaseException) -> str:
    """The first line of an error that has something on it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
