"""Look the machine over: what works, what is missing, and what to do about it. Nothing heavy is imported."""

from collections.abc import Iterable
from pathlib import Path

from tatara.doctor import machine, packages
from tatara.doctor.finding import Finding, Status

__all__ = ["Finding", "Status", "diagnose", "exit_code"]

_PORTS = {8000: "the HTTP endpoint (serve)", 8265: "the Ray dashboard (ray start --head)"}


def diagnose(root: str | Path = ".tatara") -> list[Finding]:
    """Everything there is to know before a run.

    Args:
        root: Where artifacts will be written; a URL of an object store is not looked at.
    """
    return [
        machine.python_version(),
        *packages.extras(),
        packages.torch_build(),
        machine.cores(),
        machine.memory(),
        machine.shared_memory(),
        *machine.artifact_root(root),
        machine.gpus(),
        *(machine.port(number, use) for number, use in _PORTS.items()),
        machine.tracking_key(),
        machine.open_files(),
    ]


def exit_code(findings: Iterable[Finding]) -> int:
    """0 if everything runs (perhaps with warnings), 1 if something is missing."""
    return int(any(finding.status == "missing" for finding in findings))
