"""The machine: cores, memory, disk, devices, ports, limits."""

import os
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tatara.doctor.finding import Finding
from tatara.doctor.packages import installed

_GIB = 2**30
_PYTHON = ((3, 11), (3, 13))
# What the quickstart needs at its peak.
_MEMORY_BYTES, _DISK_BYTES, _SHARED_MEMORY_BYTES = 10 * _GIB, 6 * _GIB, 2 * _GIB
_CORES = 2
_OPEN_FILES = 8192


def python_version(version: Sequence[int] = tuple(sys.version_info[:3])) -> Finding:
    """The interpreter, which must be one that the whole stack has wheels for."""
    text = ".".join(str(part) for part in version[:3])
    if _PYTHON[0] <= tuple(version[:2]) < _PYTHON[1]:
        return Finding("python", "ok", f"{text} at {sys.executable}")
    return Finding(
        "python", "missing", f"{text} at {sys.executable}", "make a virtual environment with Python 3.11 or 3.12"
    )


def cores() -> Finding:
    """Cores this process may use."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if count < _CORES:
        return Finding("cores", "warning", f"{count}", f"stages will be slow: use a machine with {_CORES} or more")
    return Finding("cores", "ok", f"{count}")


def memory() -> Finding:
    """Memory of the machine or of the container, whichever is less."""
    import psutil

    total, free = psutil.virtual_memory().total, psutil.virtual_memory().available
    limit = _container_limit()
    if limit is not None and limit < total:
        total, free = limit, min(free, limit)
    detail = f"{free / _GIB:.1f} GiB free of {total / _GIB:.1f} GiB"
    if free < _MEMORY_BYTES:
        need = f"the quickstart takes up to {_MEMORY_BYTES // _GIB} GiB: close other programs, or use a larger machine"
        return Finding("memory", "warning", detail, need)
    return Finding("memory", "ok", detail)


def _container_limit() -> int | None:
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            text = Path(path).read_text().strip()
        except OSError:
            continue
        return int(text) if text.isdigit() else None
    return None


def shared_memory(path: str | Path = "/dev/shm") -> Finding:
    """Where Ray keeps objects and gloo and vLLM exchange tensors; containers give it 64 MiB by default."""
    try:
        free = shutil.disk_usage(path).free
    except OSError:
        return Finding("shared memory", "warning", f"no {path}", "Ray falls back to the disk, which is slower")
    if free < _SHARED_MEMORY_BYTES:
        return Finding(
            "shared memory",
            "warning",
            f"{free / 2**20:.0f} MiB free at {path}",
            f"Ray falls back to the disk: start the container with --shm-size={_SHARED_MEMORY_BYTES // _GIB}g",
        )
    return Finding("shared memory", "ok", f"{free / _GIB:.1f} GiB free at {path}")


def artifact_root(root: str | Path) -> list[Finding]:
    """Whether artifacts can be written, and how many more fit."""
    if "://" in str(root):
        return [Finding("artifact root", "ok", f"{root} (remote, not looked at)")]
    target = Path(root).expanduser().absolute()
    # The nearest directory that is there decides about those still to be made.
    present = next(path for path in (target, *target.parents) if path.exists())
    if not present.is_dir():
        return [Finding("artifact root", "missing", f"{present} is a file", "choose another artifact root")]
    try:
        with tempfile.TemporaryFile(dir=present) as file:
            file.write(b"x")
    except OSError as error:
        fix = f"make {present} writable, or choose another artifact root"
        return [Finding("artifact root", "missing", f"{target}: {error.strerror}", fix)]
    free = shutil.disk_usage(present).free
    detail = f"{free / _GIB:.1f} GiB free at {target}"
    if free < _DISK_BYTES:
        return [
            Finding("artifact root", "ok", f"{target} is writable"),
            Finding("disk", "warning", detail, f"the quickstart writes up to {_DISK_BYTES // _GIB} GiB: free some"),
        ]
    return [Finding("artifact root", "ok", f"{target} is writable"), Finding("disk", "ok", detail)]


def gpus() -> Finding:
    """NVIDIA GPUs, as the driver tells; none is fine."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return Finding("gpu", "ok", "none: everything runs on the CPU")
    query = [command, "--query-gpu=name,memory.total", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=1.5, check=True).stdout
    except (OSError, subprocess.SubprocessError) as error:
        return Finding("gpu", "warning", f"nvidia-smi fails ({type(error).__name__})", "check the NVIDIA driver")
    found = [line.strip() for line in answer.splitlines() if line.strip()]
    torch = installed("torch") or ""
    if found and "+cpu" in torch:
        fix = "install the GPU lock: its torch and vllm are CUDA builds"
        return Finding("gpu", "warning", f"{len(found)} x {found[0]}, but torch {torch} cannot use it", fix)
    return Finding("gpu", "ok", f"{len(found)} x {found[0]}" if found else "none: everything runs on the CPU")


def port(number: int, use: str) -> Finding:
    """Whether a port that we listen on by default is free."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", number))
        except OSError as error:
            return Finding(
                f"port {number}",
                "warning",
                f"{error.strerror}",
                f"{use} needs it: stop what has it, or give another port",
            )
    return Finding(f"port {number}", "ok", "free")


def tracking_key() -> Finding:
    """Whether Weights & Biases will upload; without a key it records to the disk."""
    if os.environ.get("WANDB_API_KEY"):
        return Finding("W&B key", "ok", "in WANDB_API_KEY")
    netrc = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    try:
        known = "api.wandb.ai" in netrc.read_text(encoding="utf-8", errors="replace")
    except OSError:
        known = False
    return Finding(
        "W&B key", "ok", f"in {netrc}" if known else "none: runs are recorded offline (wandb sync sends them later)"
    )


def open_files() -> Finding:
    """The limit on open files; Ray raises the soft one to the hard one by itself."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < _OPEN_FILES:
        return Finding(
            "open files", "warning", f"at most {hard}", f"raise the hard limit to {_OPEN_FILES} (ulimit -Hn)"
        )
    return Finding("open files", "ok", f"{soft} (limit {'none' if hard == resource.RLIM_INFINITY else hard})")
