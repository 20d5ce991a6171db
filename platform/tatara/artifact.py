"""Directories with a manifest: begin, commit, open, verify, lineage.

Layout: ``<root>/<kind>/<name>@<version>/``, the payload, then ``manifest.json``. A directory without a manifest is not
a result. An attempt writes to a private directory; the commit is one step:

- on a local disk the manifest is written into the private directory, which is then renamed into place;
- on an object store, which cannot rename, the payload stays below ``<name>@<version>/<attempt>/`` and the manifest,
  which names that prefix, is put under the condition that none is there.

Either way exactly one of several concurrent attempts wins and nobody ever sees a mixture.
"""

import contextlib
import datetime
import fcntl
import hashlib
import json
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from tatara import storage
from tatara.errors import ArtifactError, StorageError

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
_ATTEMPTS = ".attempts"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class FileEntry(BaseModel):
    """One payload file: path relative to the payload, size in bytes, SHA-256."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    path: str
    size: int
    sha256: str


class InputEntry(BaseModel):
    """One input: where it was found and what it was."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    reference: str
    url: str
    fingerprint: str


class SourcesEntry(BaseModel):
    """Raw files from outside the store: how many, how large, and one hash over all of them."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    files: int
    bytes: int
    sha256: str


class Manifest(BaseModel):
    """What an artifact is, from which inputs, by which configuration and code."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())
    schema_version: int
    kind: str
    name: str
    version: int
    stage: str
    created: str
    seconds: float
    fingerprint: str
    config: dict[str, Any]
    inputs: dict[str, InputEntry]
    sources: SourcesEntry | None
    code_version: str
    command: list[str]
    environment: dict[str, Any]
    metrics: dict[str, Any]
    payload: str
    files: list[FileEntry]


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
        cache = cache_directory() / self.fingerprint
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
class Draft:
    """All of a manifest that is known before the stage ran."""

    kind: str
    name: str
    version: int
    stage: str
    fingerprint: str
    config: dict[str, Any] = field(default_factory=dict)
    inputs: dict[str, InputEntry] = field(default_factory=dict)
    sources: SourcesEntry | None = None
    code_version: str = ""
    command: list[str] = field(default_factory=list)
    environment: dict[str, Any] = field(default_factory=dict)

    @property
    def reference(self) -> str:
        """``kind/name@version``."""
        return f"{self.kind}/{self.name}@{self.version}"


class Attempt:
    """A private output directory that becomes an artifact when it is committed.

    Attributes:
        url: The payload directory; every node of the cluster may write below it.
        path: A directory on this machine for what must be written locally; the same as ``url`` on a local root,
            else uploaded by `commit`.
    """

    def __init__(self, store: "Store", draft: Draft) -> None:
        identifier = uuid.uuid4().hex[:12]
        self.draft = draft
        self._store = store
        self._identifier = identifier
        self._final = storage.join(store.root, draft.kind, f"{draft.name}@{draft.version}")
        self._lock: int | None = None
        if storage.is_local(store.root):
            attempts = storage.join(store.root, draft.kind, _ATTEMPTS)
            self.url = storage.join(attempts, f"{draft.name}@{draft.version}-{identifier}")
            storage.make_directory(attempts)
            with storage.errors_named(attempts, "write"):
                # The lock dies with its process, which is how a later attempt tells a crashed one from a running one.
                self._lock = os.open(f"{self.url}.lock", os.O_CREAT | os.O_RDWR)
                fcntl.flock(self._lock, fcntl.LOCK_EX)
            storage.make_directory(self.url)
            self.path = Path(self.url)
        else:
            self.url = storage.join(self._final, identifier)
            self.path = Path(tempfile.mkdtemp(prefix="tatara-attempt-"))

    def commit(self, metrics: Mapping[str, Any], seconds: float) -> Artifact:
        """Hash the payload, write the manifest last and publish in one step.

        Raises:
            ArtifactError: Another attempt was committed under this name and version first.
            StorageError: The root cannot be written (full, read-only, unreachable).
        """
        local = storage.is_local(self.url)
        if not local:
            storage.upload(self.path, self.url)
        payload = storage.list_files(self.url)
        hashes = storage.sha256_all([file.url for file in payload])
        manifest = Manifest(
            schema_version=SCHEMA_VERSION,
            kind=self.draft.kind,
            name=self.draft.name,
            version=self.draft.version,
            stage=self.draft.stage,
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            seconds=round(seconds, 3),
            fingerprint=self.draft.fingerprint,
            config=self.draft.config,
            inputs=self.draft.inputs,
            sources=self.draft.sources,
            code_version=self.draft.code_version,
            command=self.draft.command,
            environment=self.draft.environment,
            metrics=dict(metrics),
            payload="" if local else self._identifier,
            files=[
                FileEntry(path=file.path, size=file.size, sha256=digest)
                for file, digest in zip(payload, hashes, strict=True)
            ],
        )
        text = (manifest.model_dump_json(indent=1) + "\n").encode()
        taken = ArtifactError(f"{self.draft.reference} was committed by another run in the meantime")
        if local:
            storage.write_bytes(storage.join(self.url, MANIFEST), text)
            with storage.errors_named(self._final, "write"):
                try:
                    os.rename(self.url, self._final)
                except OSError as error:
                    if not os.path.isdir(self._final):
                        raise
                    if os.path.exists(os.path.join(self._final, MANIFEST)):
                        raise taken from error
                    raise ArtifactError(
                        f"{self._final} is in the way: it has no manifest, so it is not a result; move it away"
                    ) from error
        else:
            try:
                storage.write_bytes(storage.join(self._final, MANIFEST), text, exclusive=True)
            except FileExistsError:
                raise taken from None
        self._release()
        return Artifact(self._final, manifest)

    def discard(self) -> None:
        """Delete what was written; nothing of it was ever visible as a result."""
        with contextlib.suppress(StorageError):
            storage.remove_tree(self.url)
        self._release()

    def _release(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
            Path(f"{self.url}.lock").unlink(missing_ok=True)
        else:
            shutil.rmtree(self.path, ignore_errors=True)


class Store:
    """The artifacts below one root."""

    def __init__(self, root: str | Path) -> None:
        self.root = storage.absolute(root)

    def begin(self, draft: Draft) -> Attempt:
        """Start an attempt; what crashed attempts at the same artifact left behind is deleted first.

        Raises:
            StorageError: The root cannot be written.
        """
        check_name(draft.name)
        self._sweep(draft)
        return Attempt(self, draft)

    def versions(self, kind: str, name: str) -> list[int]:
        """Versions of an artifact that were committed, ascending."""
        found = []
        for directory in storage.list_directories(storage.join(self.root, kind)):
            stem, _, version = directory.rpartition("@")
            if (
                stem == name
                and version.isdecimal()
                and storage.exists(storage.join(self.root, kind, directory, MANIFEST))
            ):
                found.append(int(version))
        return sorted(found)

    def find(self, kind: str, name: str, fingerprint: str) -> Artifact | None:
        """The newest committed version that has this fingerprint."""
        for version in reversed(self.versions(kind, name)):
            artifact = self.open(f"{kind}/{name}@{version}")
            if artifact.fingerprint == fingerprint:
                return artifact
        return None

    def open(self, reference: str) -> Artifact:
        """Open ``kind/name@version``, or ``kind/name`` for its newest version.

        Raises:
            ArtifactError: There is no such artifact; the message lists the versions there are.
        """
        kind, _, rest = reference.partition("/")
        name, _, version = rest.partition("@")
        if not kind or not name or (version and not version.isdecimal()):
            raise ArtifactError(
                f"{reference!r} is not an artifact: write kind/name@version, such as model/quickstart@1"
            )
        versions = self.versions(kind, name)
        if not versions or (version and int(version) not in versions):
            there = f"committed versions: {', '.join(map(str, versions))}" if versions else "no version is committed"
            raise ArtifactError(f"no artifact {reference} below {self.root}; {there}")
        return open_directory(storage.join(self.root, kind, f"{name}@{version or versions[-1]}"))

    def resolve(self, reference: str) -> Artifact:
        """Open a reference (see `open`) or the path or URL of an artifact's directory."""
        if "://" in reference or storage.exists(storage.join(reference, MANIFEST)):
            return open_directory(reference)
        return self.open(reference)

    def lineage(self, artifact: Artifact) -> "Lineage":
        """The tree of what an artifact was made from.

        Inputs that moved or are gone are shown by what the manifest recorded of them.
        """
        inputs = {}
        for label, entry in artifact.manifest.inputs.items():
            try:
                found = self.resolve(entry.reference)
            except ArtifactError:
                try:
                    found = open_directory(entry.url)
                except ArtifactError:
                    found = None
            if found is not None and found.fingerprint == entry.fingerprint:
                inputs[label] = self.lineage(found)
            else:
                inputs[label] = Lineage(entry.reference, entry.fingerprint, None, {})
        return Lineage(artifact.reference, artifact.fingerprint, artifact, inputs)

    def _sweep(self, draft: Draft) -> None:
        if not storage.is_local(self.root):
            return
        attempts = Path(storage.join(self.root, draft.kind, _ATTEMPTS))
        for lock in attempts.glob(f"{draft.name}@*.lock"):
            handle = os.open(lock, os.O_RDWR)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            else:
                shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
                lock.unlink(missing_ok=True)
            finally:
                os.close(handle)


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


def fingerprint(stage: str, identity: Mapping[str, Any], inputs: Mapping[str, str], sources: str | None) -> str:
    """SHA-256 of what decides a stage's result.

    Args:
        stage: Its name.
        identity: `tatara.config.Config.identity` of its configuration.
        inputs: Fingerprints of its input artifacts by input name.
        sources: Hash over raw files from outside the store, when it reads any.
    """
    content = {"schema": SCHEMA_VERSION, "stage": stage, "config": identity, "inputs": dict(inputs), "sources": sources}
    return hashlib.sha256(json.dumps(content, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def check_name(name: str) -> str:
    """An artifact's or recipe's name, unless it cannot be a directory's.

    Raises:
        ArtifactError: It holds other characters than letters, digits, ``.``, ``_`` and ``-``.
    """
    if not _NAME.fullmatch(name):
        raise ArtifactError(f"{name!r} cannot be a name: use letters, digits, '.', '_' and '-', such as my-run.2")
    return name


def cache_directory() -> Path:
    """Where downloads of remote payloads are kept: ``$TATARA_CACHE``, by default ``~/.cache/tatara``."""
    return Path(os.environ.get("TATARA_CACHE") or Path.home() / ".cache" / "tatara")
