"""A committed artifact: its payload, its verification, its lineage."""

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tatara import storage
from tatara.artifact.manifest import MANIFEST, SCHEMA_VERSION, FileEntry, Manifest
from tatara.errors import ArtifactError, StorageError


@dataclass(frozen=True)
class Artifact:
    """A committed result.

    Attributes:
        url: Its directory.
        manifest: What its ``manifest.json`` says.
    """

    url: str
    manifest: Manifest

    @property
    def kind(self) -> str:
        """What it holds, such as ``documents`` or ``checkpoint``."""
        return self.manifest.kind

    @property
    def name(self) -> str:
        """Its name within its kind."""
        return self.manifest.name

    @property
    def version(self) -> int:
        """Its version, from 1."""
        return self.manifest.version

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the configuration's identity and the inputs' fingerprints."""
        return self.manifest.fingerprint

    @property
    def metrics(self) -> dict[str, Any]:
        """The summary figures its stage returned."""
        return self.manifest.metrics

    @property
    def reference(self) -> str:
        """``kind/name@version``."""
        return f"{self.kind}/{self.name}@{self.version}"

    def file_url(self, path: str = "") -> str:
        """Where a payload file or directory lies."""
        return storage.join(self.url, self.manifest.payload, path)

    def files(self, below: str = "") -> list[FileEntry]:
        """The payload files, optionally only those below a directory of the payload."""
        prefix = below.rstrip("/") + "/" if below else ""
        return [entry for entry in self.manifest.files if entry.path.startswith(prefix) or entry.path == below]

    def local(self, path: str = "") -> Path:
        """A local path to a payload file or directory.

        On a local root this is the file itself. A remote payload is downloaded once into the cache
        (``$TATARA_CACHE``, by default ``~/.cache/tatara``) and checked against the manifest's hashes.

        Raises:
            ArtifactError: The payload has no such file, or a download does not have the hash in the manifest.
        """
        entries = self.files(path)
        if not entries:
            raise ArtifactError(f"{self.reference} has no payload file {path!r}")
        if storage.is_local(self.url):
            return Path(self.file_url(path))
        # By content: two computations of one fingerprint need not agree in every byte (a time stamp in a file).
        content = "".join(f"{entry.sha256}  {entry.path}\n" for entry in self.manifest.files)
        cache = cache_directory() / hashlib.sha256(content.encode()).hexdigest()
        for entry in entries:
            target = cache / entry.path
            if target.exists() and target.stat().st_size == entry.size:
                continue
            storage.download(self.file_url(entry.path), target)
            if storage.sha256(str(target)) != entry.sha256:
                target.unlink()
                raise ArtifactError(f"{self.file_url(entry.path)} does not have the hash in the manifest: damaged")
        return cache / path if path else cache

    def read_json(self, path: str) -> Any:
        """A payload file parsed as JSON."""
        return json.loads(storage.read_bytes(self.file_url(path)))

    def verify(self) -> list[str]:
        """Hash the payload again.

        Returns:
            One line per file that is missing, has another size or another hash, or is not in the manifest.
        """
        present = {file.path: file for file in storage.list_files(self.file_url())}
        present.pop(MANIFEST, None)
        problems = []
        expected = {entry.path: entry for entry in self.manifest.files}
        same_size = []
        for path, entry in expected.items():
            if path not in present:
                problems.append(f"{path}: missing")
            elif present[path].size != entry.size:
                problems.append(f"{path}: {present[path].size} bytes, the manifest says {entry.size}")
            else:
                same_size.append(entry)
        hashes = storage.sha256_all([self.file_url(entry.path) for entry in same_size])
        problems += [
            f"{entry.path}: the content changed (SHA-256 {found[:12]}..., the manifest says {entry.sha256[:12]}...)"
            for entry, found in zip(same_size, hashes, strict=True)
            if found != entry.sha256
        ]
        problems += [f"{path}: not in the manifest" for path in sorted(set(present) - set(expected))]
        return problems


@dataclass(frozen=True)
class Lineage:
    """A node of a lineage tree; ``artifact`` is None when the input is no longer there."""

    reference: str
    fingerprint: str
    artifact: Artifact | None
    inputs: dict[str, "Lineage"]

    def walk(self) -> Iterator["Lineage"]:
        """This node, then all below it, depth first."""
        yield self
        for node in self.inputs.values():
            yield from node.walk()


def open_directory(url: str | Path) -> Artifact:
    """Open an artifact by its directory.

    Raises:
        ArtifactError: It has no manifest, or one that cannot be read.
    """
    url = storage.absolute(url)
    try:
        raw = storage.read_bytes(storage.join(url, MANIFEST))
    except StorageError:
        raise ArtifactError(f"{url} has no {MANIFEST}: it is not an artifact, or its stage did not finish") from None
    try:
        manifest = Manifest.model_validate_json(raw)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ArtifactError(f"{url}/{MANIFEST} is damaged: {where} {first['msg']}".replace(":  ", ": ")) from None
    if manifest.schema_version != SCHEMA_VERSION:
        raise ArtifactError(
            f"{url} has manifest schema {manifest.schema_version}, this Tatara reads {SCHEMA_VERSION}: upgrade Tatara"
        )
    return Artifact(url, manifest)


def cache_directory() -> Path:
    """Where downloads of remote payloads are kept: ``$TATARA_CACHE``, by default ``~/.cache/tatara``."""
    return Path(os.environ.get("TATARA_CACHE") or Path.home() / ".cache" / "tatara")
