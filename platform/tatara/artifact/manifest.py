"""What an artifact is, from which inputs, by which configuration and code."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ConfigDict

from tatara.errors import ArtifactError

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
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
