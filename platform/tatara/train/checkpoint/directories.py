"""Checkpoint directories: written under a private name, published by one rename, found by their manifest.

These functions are for the one process that publishes, or for one that only looks; `remote` does the same on an object
store, and `places` chooses.
"""

import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tatara import storage
from tatara.errors import ArtifactError

MANIFEST = "manifest.json"
DISCARDED = "discarded.json"
"""Names checkpoints that a roll back made worthless, for as long as they are being deleted."""
PARTIAL = ".partial-"


@dataclass(frozen=True)
class Checkpoint:
    """A finished checkpoint.

    Attributes:
        path: ``step-<n>/`` with ``model/`` (a distributed checkpoint), ``training.json``, ``losses.jsonl``.
        step: Steps that were trained when it was taken; the next step to run has this number.
        manifest: What `publish` wrote.
        url: Where its files are, if not below ``path``, which then is their place in the cache of this machine.
    """

    path: Path
    step: int
    manifest: dict[str, Any]
    url: str | None = None


def begin(root: Path, step: int) -> Path:
    """An empty private directory for a checkpoint in the making; not a checkpoint before `publish`."""
    partial = root / f"{PARTIAL}{name_of(step)}-{uuid.uuid4().hex[:8]}"
    (partial / "model").mkdir(parents=True)
    return partial


def publish(
    partial: Path, step: int, description: Mapping[str, Any], files: Iterable[Mapping[str, Any]] | None = None
) -> Checkpoint:
    """Write the manifest last, then rename into place; a checkpoint of the same step that is whole is kept.

    Args:
        partial: From `begin`, with everything written.
        step: Steps trained.
        description: JSON-able facts about the run that go into the manifest.
        files: ``path``, ``size`` and ``hash`` of each file; without them, the sizes of what is there.
    """
    finish_discards(partial.parent)
    manifest = manifest_of(partial, step, description, files_in(partial) if files is None else files)
    with open(partial / MANIFEST, "w", encoding="utf-8") as stream:
        json.dump(manifest, stream, indent=1)
        stream.flush()
        os.fsync(stream.fileno())
    final = partial.parent / name_of(step)
    if final.exists() and damage(final) is not None:
        shutil.rmtree(final)
    if final.exists():
        shutil.rmtree(partial)
    else:
        partial.rename(final)
    return Checkpoint(final, step, manifest)


def files_in(directory: Path) -> list[dict[str, Any]]:
    """Path and size of every file below a directory."""
    return [
        {"path": path.relative_to(directory).as_posix(), "size": path.stat().st_size}
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    ]


def manifest_of(
    partial: Path, step: int, description: Mapping[str, Any], files: Iterable[Mapping[str, Any]]
) -> dict[str, Any]:
    """The manifest of a checkpoint in the making."""
    listed = sorted((dict(file) for file in files), key=lambda file: str(file["path"]))
    return {"step": step, **description, "id": partial.name.rsplit("-", 1)[-1], "files": listed}


def newest(root: Path, log: Callable[[str], None]) -> Checkpoint | None:
    """The newest checkpoint that has all of its files in the right size; says what is wrong with newer ones."""
    return next((found for found in candidates(root, log)), None)


def candidates(root: Path, log: Callable[[str], None]) -> Iterable[Checkpoint]:
    """The same as `newest`, and the ones after it, newest first."""
    discarded = read_discarded(root)
    for path in sorted(root.glob("step-*"), reverse=True) if root.is_dir() else []:
        problem = damage(path)
        if problem is None:
            manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
            if [path.name, manifest.get("id")] not in discarded:
                yield Checkpoint(path, int(manifest["step"]), manifest)
                continue
            problem = "a roll back discarded it"
        log(f"checkpoint {path.name} is not usable, looking at the one before: {problem}")


def opened(path: Path) -> Checkpoint:
    """The checkpoint in the payload of a checkpoint artifact.

    Raises:
        ArtifactError: There is none.
    """
    try:
        training = json.loads((path / "training.json").read_text(encoding="utf-8"))
        model = path / "model.json"
        if "model" not in training and model.is_file():
            training["model"] = json.loads(model.read_text(encoding="utf-8"))
        return Checkpoint(path, int(training.get("step", 0)), training)
    except FileNotFoundError:
        raise ArtifactError(f"{path} is no checkpoint: it has no training.json") from None
    except (ValueError, TypeError, AttributeError):
        raise ArtifactError(f"{path / 'training.json'} is unreadable") from None


def damage(path: Path) -> str | None:
    """What is wrong with a checkpoint directory, in a few words; None if all files have their sizes."""
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        expected = [(str(file["path"]), int(file["size"])) for file in manifest["files"]]
        if name_of(int(manifest["step"])) != path.name:
            return f"its {MANIFEST} is of step {manifest['step']}"
    except FileNotFoundError:
        return f"it has no {MANIFEST}"
    except (OSError, ValueError, KeyError, TypeError):
        return f"its {MANIFEST} is unreadable"
    for name, size in expected:
        file = path / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != size:
            return f"{name} has {file.stat().st_size} bytes, its {MANIFEST} says {size}"
    return None


def prune(root: Path, keep: int, keep_every: int = 0) -> None:
    """Delete all but the newest ``keep`` checkpoints, and what earlier attempts left half written.

    Checkpoints of steps that are a multiple of ``keep_every`` stay for ever (0: none do). Only whole ones count, so the
    last usable one is never deleted, and damaged ones go as soon as there is a newer one that is whole. Only for the
    one process that publishes, and not while a checkpoint is in the making.
    """
    finish_discards(root)
    whole = {path.name: damage(path) is None for path in sorted(root.glob("step-*"), reverse=True)}
    for name in to_delete(whole, keep, keep_every):
        _delete(root / name)
    for path in root.glob(f"{PARTIAL}*"):
        shutil.rmtree(path, ignore_errors=True)


def to_delete(whole: Mapping[str, bool], keep: int, keep_every: int) -> list[str]:
    """Names of checkpoints that are to go, given which are whole, newest first."""
    doomed, kept = [], 0
    for name, is_whole in whole.items():
        for_ever = keep_every > 0 and int(name.removeprefix("step-")) % keep_every == 0
        if (kept >= keep and not (is_whole and for_ever)) or (kept and not is_whole):
            doomed.append(name)
        kept += is_whole
    return doomed


def discard_after(root: Path, step: int) -> None:
    """Make all checkpoints of later steps unusable, and delete them.

    They are named in a file first, which `candidates` heeds: after a kill in the middle none of them is found, and the
    next publication deletes the rest.
    """
    found = [path for path in root.glob("step-*") if int(path.name.removeprefix("step-")) > step]
    if found:
        named = [*read_discarded(root), *([path.name, _id_of(path)] for path in found)]
        storage.replace_bytes(root / DISCARDED, json.dumps(named).encode())
        finish_discards(root)


def finish_discards(root: Path) -> None:
    """Delete what `discard_after` named."""
    for name, identity in read_discarded(root):
        if (root / name).is_dir() and _id_of(root / name) == identity:
            _delete(root / name)
    (root / DISCARDED).unlink(missing_ok=True)


def read_discarded(root: Path) -> list[list[Any]]:
    """Name and id of checkpoints that a roll back discarded."""
    try:
        return list(json.loads((root / DISCARDED).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return []


def _id_of(path: Path) -> Any:
    try:
        return json.loads((path / MANIFEST).read_text(encoding="utf-8")).get("id")
    except (OSError, ValueError, AttributeError):
        return None


def _delete(path: Path) -> None:
    # Out of sight first: a kill in the middle must not leave a checkpoint that looks newer than it is whole.
    doomed = path.with_name(f"{PARTIAL}{path.name}-{uuid.uuid4().hex[:8]}")
    path.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def name_of(step: int) -> str:
    """Directory name of a step's checkpoint; names sort by step."""
    return f"step-{step:08d}"
