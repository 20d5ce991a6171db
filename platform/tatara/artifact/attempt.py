"""An attempt at an artifact: a private directory that becomes a result in one step, or never."""

import contextlib
import datetime
import fcntl
import os
import shutil
import tempfile
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tatara import storage
from tatara.artifact.committed import Artifact
from tatara.artifact.manifest import MANIFEST, SCHEMA_VERSION, Draft, FileEntry, Manifest
from tatara.errors import ArtifactError, StorageError

ATTEMPTS = ".attempts"
"""Directory below a kind's, on a local root, with what is being written."""


class Attempt:
    """A private output directory that becomes an artifact when it is committed.

    Attributes:
        url: The payload directory; every node of the cluster may write below it.
        path: A directory on this machine for what must be written locally; the same as ``url`` on a local root,
            else uploaded by `commit`.
    """

    def __init__(self, root: str, draft: Draft) -> None:
        identifier = uuid.uuid4().hex[:12]
        self.draft = draft
        self._identifier = identifier
        self._final = storage.join(root, draft.kind, f"{draft.name}@{draft.version}")
        self._lock: int | None = None
        if storage.is_local(root):
            attempts = storage.join(root, draft.kind, ATTEMPTS)
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
