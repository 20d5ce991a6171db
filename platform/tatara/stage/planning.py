"""Whether a job has to run, which version it writes, and why."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tatara import artifact
from tatara.artifact import Artifact, SourcesEntry, Store
from tatara.config import Config
from tatara.errors import ArtifactError
from tatara.stage.description import Job, SourceFile

_MISSING = object()


@dataclass(frozen=True)
class Plan:
    """What a job will do.

    Attributes:
        fingerprint: Of the result.
        existing: The committed artifact with this fingerprint; the job is then skipped.
        version: The version that will be written.
        drift: Why a result under this name does not count any more; empty when there is none.
        sources: Raw inputs.
    """

    fingerprint: str
    existing: Artifact | None
    version: int
    drift: str
    sources: tuple[SourceFile, ...]


def plan(job: Job, input_fingerprints: Mapping[str, str]) -> Plan:
    """Decide whether a job has to run and which version it writes; needs no input to exist yet.

    Raises:
        ArtifactError: The version is fixed and holds another result.
        DataError: A raw input is missing.
    """
    artifact.check_name(job.name)
    sources: tuple[SourceFile, ...] = ()
    if job.stage.sources:
        sources = tuple(job.stage.resolve(job.stage.sources)(job.config))
    digest = sources_entry(sources)
    own = artifact.fingerprint(
        job.stage.name, job.config.identity(), input_fingerprints, digest.sha256 if digest else None
    )
    store = Store(job.root)
    versions = store.versions(job.stage.kind, job.name)
    existing = store.find(job.stage.kind, job.name, own) if versions else None
    drift = ""
    if versions and existing is None:
        latest = store.open(f"{job.stage.kind}/{job.name}@{versions[-1]}")
        drift = differences(latest, job.config, input_fingerprints, digest)
    following = versions[-1] + 1 if versions else 1
    if existing is None and job.version in versions:
        raise ArtifactError(
            f"{job.stage.kind}/{job.name}@{job.version} is there with another content ({drift}): "
            f"set version: {following}, or leave the version out"
        )
    version = existing.version if existing else job.version or following
    return Plan(own, existing, version, drift, sources)


def differences(
    latest: Artifact, config: Config, input_fingerprints: Mapping[str, str], sources: SourcesEntry | None
) -> str:
    """What makes a new result differ from the newest one of its name, in words."""
    before, after = _flat(latest.manifest.config), _flat(config.dump())
    identity = set(_flat(config.identity()))
    changed = [
        f"{key} {before[key]} -> {after[key]}" if key in before else f"{key} {after[key]} is new"
        for key in after
        if key in identity and before.get(key, _MISSING) != after[key]
    ]
    owners = {key.split(".")[0] for key in identity}
    changed += [
        f"{key} {value} is gone" for key, value in before.items() if key not in after and key.split(".")[0] in owners
    ]
    changed += [
        f"input {name} is another one"
        for name, value in input_fingerprints.items()
        if name not in latest.manifest.inputs or latest.manifest.inputs[name].fingerprint != value
    ]
    if (sources.sha256 if sources else None) != (latest.manifest.sources.sha256 if latest.manifest.sources else None):
        changed.append("raw files changed")
    return "; ".join(changed[:4]) + (f"; {len(changed) - 4} more" if len(changed) > 4 else "") or "the code's schema"


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, item in value.items():
        if isinstance(item, list) and item and all(isinstance(part, Mapping) and len(part) == 1 for part in item):
            # Named things in order, such as steps.
            flat[f"{prefix}{key}"] = ", ".join(next(iter(part)) for part in item)
            for part in item:
                flat.update(_flat(part, f"{prefix}{key}."))
        elif isinstance(item, Mapping):
            flat.update(_flat(item, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = item
    return flat


def sources_entry(sources: Sequence[SourceFile]) -> SourcesEntry | None:
    """Raw inputs in sum, for the manifest and the fingerprint; None when there are none."""
    if not sources:
        return None
    # The place is not the identity, the same tree elsewhere is the same input: paths count from where they part.
    paths = {file.path: file.path.split("/") for file in sources}
    shared = 0
    for parts in zip(*(path[:-1] for path in paths.values()), strict=False):
        if len(set(parts)) > 1:
            break
        shared += 1
    digest = hashlib.sha256()
    for file in sorted(sources, key=lambda item: item.path):
        digest.update(f"{'/'.join(paths[file.path][shared:])}\0{file.size}\0{file.sha256}\n".encode())
    return SourcesEntry(files=len(sources), bytes=sum(file.size for file in sources), sha256=digest.hexdigest())
