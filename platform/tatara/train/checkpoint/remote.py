"""Checkpoints on an object store: payload below a private name, the manifest last, and a cache on each machine.

``<root>/step-<n>/<id>/...`` holds the files of one attempt, ``<root>/step-<n>/manifest.json`` names the attempt that
counts. Without it, or for other ids, what lies there is no checkpoint.
"""

import contextlib
import hashlib
import json
import shutil
import uuid
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from tatara import artifact, storage
from tatara.errors import StorageError
from tatara.train.checkpoint import directories
from tatara.train.checkpoint.directories import DISCARDED, MANIFEST, PARTIAL, Checkpoint, name_of


def local_room(url: str, name: str) -> Path:
    """A directory of this machine for one remote root; the ranks of a machine share it."""
    digest = hashlib.sha256(url.encode()).hexdigest()[:16]
    room = artifact.cache_directory() / "checkpoints" / digest / name
    room.mkdir(parents=True, exist_ok=True)
    return room


def begin(url: str, step: int) -> Path:
    """Where the ranks of each machine write their files before they are uploaded."""
    return local_room(url, "staging") / f"{PARTIAL}{name_of(step)}-{uuid.uuid4().hex[:8]}"


def upload(url: str, partial: Path, names: Iterable[str]) -> None:
    """Upload files of a checkpoint in the making, and delete them here."""
    step, identity = _parts(partial)
    for name in names:
        fs, path = storage.filesystem(storage.join(url, step, identity, name))
        with storage.errors_named(url, "write a checkpoint to"):
            fs.put_file(str(partial / name), path)
        (partial / name).unlink()


def publish(
    url: str, partial: Path, step: int, description: Mapping[str, Any], files: Iterable[Mapping[str, Any]]
) -> None:
    """Upload what is left to upload and then the manifest, unless a whole checkpoint of the step is there."""
    finish_discards(url)
    present = [entry["path"] for entry in directories.files_in(partial)]
    upload(url, partial, present)
    if _damage(url, name_of(step)) is not None:
        manifest = directories.manifest_of(partial, step, description, files)
        storage.write_bytes(storage.join(url, name_of(step), MANIFEST), json.dumps(manifest, indent=1).encode())


def candidates(url: str, log: Callable[[str], None]) -> Iterable[Checkpoint]:
    """Checkpoints that are whole as far as sizes tell, newest first; says what is wrong with others."""
    discarded = _read_discarded(url)
    for name in sorted(_steps(url), reverse=True):
        problem = _damage(url, name)
        if problem is None:
            manifest = _manifest(url, name)
            if [name, manifest["id"]] not in discarded:
                path = local_room(url, "cache") / f"{name}-{manifest['id']}"
                remote = storage.join(url, name, manifest["id"])
                yield Checkpoint(path, int(manifest["step"]), manifest, remote)
                continue
            problem = "a roll back discarded it"
        log(f"checkpoint {name} is not usable, looking at the one before: {problem}")


def fetch(found: Checkpoint, names: Iterable[str]) -> None:
    """Bring files of a checkpoint into this machine's cache, which then holds no other checkpoint."""
    assert found.url is not None
    for other in found.path.parent.iterdir():
        if other != found.path:
            shutil.rmtree(other, ignore_errors=True)
    sizes = {file["path"]: int(file["size"]) for file in found.manifest["files"]}
    for name in names:
        target = found.path / name
        if not (target.is_file() and target.stat().st_size == sizes[name]):
            storage.download(storage.join(found.url, name), target)


def prune(url: str, keep: int, keep_every: int = 0) -> None:
    """As `directories.prune`; unfinished uploads of earlier attempts go too."""
    finish_discards(url)
    whole = {name: _damage(url, name) is None for name in sorted(_steps(url), reverse=True)}
    doomed = directories.to_delete(whole, keep, keep_every)
    for name in doomed:
        _delete(url, name)
    for name in whole.keys() - set(doomed):
        identity = _manifest(url, name).get("id")
        for attempt in storage.list_directories(storage.join(url, name)):
            if attempt != identity:
                storage.remove_tree(storage.join(url, name, attempt))


def discard_after(url: str, step: int) -> None:
    """As `directories.discard_after`."""
    found = [name for name in _steps(url) if int(name.removeprefix("step-")) > step]
    if found:
        named = [*_read_discarded(url), *([name, _manifest(url, name).get("id")] for name in found)]
        storage.write_bytes(storage.join(url, DISCARDED), json.dumps(named).encode())
        finish_discards(url)


def finish_discards(url: str) -> None:
    """As `directories.finish_discards`."""
    discarded = _read_discarded(url)
    for name, identity in discarded:
        if _manifest(url, name).get("id") == identity:
            _delete(url, name)
    if discarded:
        storage.remove_tree(storage.join(url, DISCARDED))


def _parts(partial: Path) -> tuple[str, str]:
    step, identity = partial.name.removeprefix(PARTIAL).rsplit("-", 1)
    return step, identity


def _steps(url: str) -> list[str]:
    return [name for name in storage.list_directories(url) if name.startswith("step-")]


def _manifest(url: str, name: str) -> dict[str, Any]:
    """A checkpoint's manifest; empty where there is none that can be read."""
    location = storage.join(url, name, MANIFEST)
    if not storage.exists(location):
        return {}
    with contextlib.suppress(ValueError):
        manifest = json.loads(storage.read_bytes(location))
        if isinstance(manifest, dict):
            return manifest
    return {}


def _damage(url: str, name: str) -> str | None:
    manifest = _manifest(url, name)
    try:
        expected = {f"{manifest['id']}/{file['path']}": int(file["size"]) for file in manifest["files"]}
        if name_of(int(manifest["step"])) != name:
            return f"its {MANIFEST} is of step {manifest['step']}"
    except (KeyError, TypeError, ValueError):
        return f"it has no {MANIFEST}" if not manifest else f"its {MANIFEST} is unreadable"
    there = {file.path: file.size for file in storage.list_files(storage.join(url, name))}
    for path, size in expected.items():
        if path not in there:
            return f"{path} is missing"
        if there[path] != size:
            return f"{path} has {there[path]} bytes, its {MANIFEST} says {size}"
    return None


def _read_discarded(url: str) -> list[list[Any]]:
    location = storage.join(url, DISCARDED)
    return list(json.loads(storage.read_bytes(location))) if storage.exists(location) else []


def _delete(url: str, name: str) -> None:
    # The manifest first: what is left after a kill in the middle is no checkpoint.
    manifest = storage.join(url, name, MANIFEST)
    with contextlib.suppress(StorageError):
        storage.remove_tree(manifest)
    storage.remove_tree(storage.join(url, name))
