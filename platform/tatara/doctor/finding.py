"""What a check of the machine found."""

from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "warning", "missing"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    name: str
    status: Status
    """``warning``: works, but less well or not for everything; ``missing``: stages that need it cannot run."""
    detail: str
    """What was found."""
    fix: str = ""
    """What to do; empty if nothing."""
