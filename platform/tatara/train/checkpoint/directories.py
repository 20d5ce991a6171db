"""Checkpoint directories: written under a private name, published by one rename, found by their manifest."""

import json
import os
import shutil
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"
_PARTIAL = ".partial-"


@dataclass(frozen=True)
class Checkpoint:
    """A finished checkpoint.

    Attributes:
        path: ``step-<n>/`` with ``model/`` (Megatron's distributed checkpoint), ``training.json``, ``losses.jsonl``.
        step: Steps that were trained when it was taken; the next step to run has this number.
        manifest: What `publish` wrote.
    """

    path: Path
    step: int
    manifest: dict[str, Any]


def begin(root: Path, step: int) -> Path:
    """An empty private directory for a checkpoint in the making; not a checkpoint before `publish`."""
    partial = root / f"{_PARTIAL}{name_of(step)}-{uuid.uuid4().hex[:8]}"
    (partial / "model").mkdir(parents=True)
    return partial


def publish(partial: Path, step: int, description: dict[str, Any]) -> Checkpoint:
    """Write the manifest last, then rename into place; a checkpoint of the same step that is whole is kept.

    Args:
        partial: From `begin`, with everything written.
        step: Steps trained.
        description: JSON-able facts about the run that go into the manifest.
    """
    files = [
        {"path": path.relative_to(partial).as_posix(), "size": path.stat().st_size}
        for path in sorted(partial.rglob("*"))
        if path.is_file()
    ]
    manifest = {"step": step, **description, "files": files}
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


def newest(root: Path, log: Callable[[str], None]) -> Checkpoint | None:
    """The newest checkpoint that is whole; says of each newer one that is not what is wrong with it."""
    found = sorted(root.glob("step-*"), reverse=True) if root.is_dir() else []
    for path in found:
        problem = damage(path)
        if problem is None:
            manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
            return Checkpoint(path, int(manifest["step"]), manifest)
        log(f"checkpoint {path.name} is not usable, looking at the one before: {problem}")
    return None


def damage(path: Path) -> str | None:
    """What is wrong with a checkpoint directory, in a few words; None if it is whole."""
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


def prune(root: Path, keep: int) -> None:
    """Delete all but the newest ``keep`` checkpoints, and what earlier attempts left half written.

    Only for the one process that publishes, and not while a checkpoint is in the making.
    """
    for path in sorted(root.glob("step-*"))[:-keep]:
        # Out of sight first: a kill in the middle must not leave a checkpoint that looks newer than it is whole.
        doomed = path.with_name(f"{_PARTIAL}{path.name}-{uuid.uuid4().hex[:8]}")
        path.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)
    for path in root.glob(f"{_PARTIAL}*"):
        shutil.rmtree(path, ignore_errors=True)


def name_of(step: int) -> str:
    """Directory name of a step's checkpoint; names sort by step."""
    return f"step-{step:08d}"
