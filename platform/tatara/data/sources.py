"""Which files a corpus consists of, and what identifies them; light, and without reading a package's files."""

import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from tatara import storage
from tatara.data.python_docs import package_files, package_identities
from tatara.data.raw_file import COMPRESSIONS, KINDS, FileKind, RawFile, kind_of, suffix_of
from tatara.data.read.config import DEFAULT_CORPUS, PythonDocsConfig
from tatara.errors import DataError
from tatara.stage import SourceFile

__all__ = ["Corpus", "FileKind", "Locations", "RawFile", "corpus_files", "corpus_identity", "files_identity"]

Locations = str | Sequence[str] | Mapping[str, str]
"""Where a corpus is: one location, several, or several by name. Under a name, a file's source is ``name/path``."""


@dataclass(frozen=True)
class Corpus:
    """The files of a corpus.

    Attributes:
        files: Files to read, sorted by source.
        skipped: Suffix to number of files that no reader knows.
    """

    files: tuple[RawFile, ...]
    skipped: dict[str, int]


def corpus_identity(corpus: Locations, python_docs: PythonDocsConfig | None = None) -> list[SourceFile]:
    """What identifies the raw inputs, for the stage's fingerprint.

    A distribution of the default corpus counts as a whole, by the hashes in its RECORD of the files that would be read;
    a user's file by its content (on an object store by its etag). Under names, these are part of the identity.

    Args:
        corpus: Where it is.
        python_docs: Taken for symmetry with `corpus_files`; which modules it chooses is the configuration's identity.

    Raises:
        DataError: The corpus is missing or holds no readable file.
    """
    found: list[SourceFile] = []
    for name, location in _named(corpus):
        default = location == DEFAULT_CORPUS
        part = package_identities() if default else _identities(_location_files(location).files)
        found += [replace(file, path=f"{name}={file.path}") for file in part] if name else part
    return found


def corpus_files(corpus: Locations, python_docs: PythonDocsConfig | None = None) -> Corpus:
    """The files to read.

    Raises:
        DataError: The corpus is missing or holds no readable file, or two files have the same source.
    """
    listed: list[tuple[str, str, RawFile]] = []
    skipped = Counter[str]()
    for name, location in _named(corpus):
        if location == DEFAULT_CORPUS:
            part = Corpus(package_files((python_docs or PythonDocsConfig()).max_bytes), {})
        else:
            part = _location_files(location)
        listed += [(name, location, file) for file in part.files]
        skipped.update(part.skipped)
    files = _with_sources(listed)
    return Corpus(tuple(sorted(files, key=lambda item: item.source)), dict(skipped))


def files_identity(paths: Iterable[str]) -> list[SourceFile]:
    """What identifies other files that a run reads: block lists, benchmarks, samples for classifiers.

    Args:
        paths: Files, directories or globs, local or remote.

    Returns:
        Every file below them, each once, sorted by path.

    Raises:
        DataError: One of the paths is not there.
    """
    found: dict[str, RawFile] = {}
    for path in paths:
        for info in _listed(path, path):
            found[info.url] = RawFile(info.url, info.path, "text", info.size, etag=info.etag)
    return _identities([found[url] for url in sorted(found)])


def _named(corpus: Locations) -> list[tuple[str, str]]:
    """(name, location) of each part of a corpus; the name is empty where the user gave none."""
    if isinstance(corpus, str):
        return [("", corpus)]
    if isinstance(corpus, Mapping):
        pairs = [(str(name), location) for name, location in sorted(corpus.items())]
        for name, _ in pairs:
            if not name or "/" in name:
                raise DataError(f"corpus: {name!r} cannot name a part; give a name without '/'")
    else:
        pairs = [("", location) for location in corpus]
    if not pairs:
        raise DataError("corpus: no location is given")
    return pairs


def _with_sources(listed: list[tuple[str, str, RawFile]]) -> list[RawFile]:
    """Make files' sources unique: the part's name in front, else the location's last component if it needs one."""
    count = Counter(file.source for name, _, file in listed if not name)
    files: dict[str, RawFile] = {}
    for name, location, file in listed:
        front = name or (location.rstrip("/").rsplit("/", 1)[-1] if count[file.source] > 1 else "")
        source = f"{front}/{file.source}" if front else file.source
        if source in files:
            raise DataError(
                f"corpus: {files[source].url} and {file.url} would both be called {source}; give the locations names"
            )
        files[source] = replace(file, source=source)
    return list(files.values())


def _identities(files: Sequence[RawFile]) -> list[SourceFile]:
    unknown = [file.url for file in files if not file.etag]
    hashes = dict(zip(unknown, storage.sha256_all(unknown), strict=True))
    return [SourceFile(file.url, file.size, file.etag or hashes[file.url]) for file in files]


def _location_files(location: str) -> Corpus:
    files, skipped = [], Counter[str]()
    for info in _listed(location, f"corpus {location}"):
        if any(part.startswith(".") for part in info.path.split("/")):
            continue
        kind = kind_of(info.path)
        if kind is None:
            skipped[suffix_of(info.path) or "no suffix"] += 1
        else:
            files.append(RawFile(info.url, info.path, kind, info.size, etag=info.etag))
    if not files:
        there = ", ".join(f"{count} {suffix}" for suffix, count in skipped.most_common(5)) or "nothing"
        known = f"{', '.join(KINDS)} can be read, also with {', '.join(COMPRESSIONS)}"
        raise DataError(f"corpus {location}: no readable file; it holds {there}, but {known}")
    return Corpus(tuple(sorted(files, key=lambda item: item.source)), dict(skipped))


def _listed(path: str, named: str) -> list[storage.FileInfo]:
    """The files at a location.

    Raises:
        DataError: There are none.
    """
    location = storage.absolute(path)
    if any(mark in path for mark in "*?[") and not (storage.is_local(location) and os.path.exists(location)):
        found = _expand(location)
        if not found:
            raise DataError(f"{named}: no file matches")
        return found
    if not storage.exists(location):
        known = f"; give a path or URL, or '{DEFAULT_CORPUS}'" if named != path and "/" not in path else ""
        raise DataError(f"{named}: no such file or directory{known}")
    return storage.list_files(location)


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
