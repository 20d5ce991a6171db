"""The artifacts below one root."""

import fcntl
import os
import shutil
from pathlib import Path

from tatara import storage
from tatara.artifact.attempt import ATTEMPTS, Attempt
from tatara.artifact.committed import Artifact, Lineage, open_directory
from tatara.artifact.manifest import MANIFEST, Draft, check_name
from tatara.errors import ArtifactError


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
        return Attempt(self.root, draft)

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
        attempts = Path(storage.join(self.root, draft.kind, ATTEMPTS))
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
