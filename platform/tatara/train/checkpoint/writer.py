"""Checkpoints that are written while training goes on.

A save plans nothing with other ranks: each knows what it writes (`state`). A thread copies it (`staging`), writes it
and hashes it on the way (`files`), and uploads it where the root is an object store. When every rank has done so, a
thread of rank 0 writes the index, publishes and prunes. Training only stands still for a few small messages.

Megatron's own asynchronous path forks the trainer, which needs seconds the first time and is not safe next to the
threads of gloo, Ray and OpenMP.
"""

import collections
import json
import shutil
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from tatara.errors import StorageError, TataraError
from tatara.train.checkpoint import state
from tatara.train.checkpoint.averages import WeightAverage
from tatara.train.checkpoint.files import Slab, Stored, write_bytes, write_index, write_slabs
from tatara.train.checkpoint.loading import OPTIMIZER, load, random_file, random_state
from tatara.train.checkpoint.places import Place
from tatara.train.checkpoint.staging import Staging
from tatara.train.engine import Engine

__all__ = ["CheckpointWriter", "Failed", "Written", "load"]


@dataclass(frozen=True)
class Written:
    """A checkpoint that was published, and what it cost."""

    step: int
    blocked_seconds: float
    """Time that training stood still for it, on this rank."""
    seconds: float
    """From the start to the publication."""


@dataclass(frozen=True)
class Failed:
    """A checkpoint that could not be written; nothing of it is left. The same on all ranks."""

    step: int
    reason: str
    """One line."""
    blocked_seconds: float
    """Time that training stood still for it, on this rank."""


@dataclass
class _Share:
    """What one rank has written, or what went wrong."""

    stored: list[Stored] = field(default_factory=list)
    files: list[dict[str, Any]] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)
    steps: dict[str, int] = field(default_factory=dict)
    failure: str | None = None


@dataclass
class _Pending:
    """A checkpoint in the making."""

    partial: Path
    step: int
    training: dict[str, Any]
    losses: str
    share: _Share
    started: float
    waited: float
    blocked: float = 0.0
    thread: threading.Thread | None = None
    publishing: bool = False


class CheckpointWriter:
    """Writes checkpoints of one engine. Every method is collective over all ranks."""

    def __init__(
        self,
        engine: Engine,
        root: Path | str,
        keep: int,
        *,
        keep_every: int = 0,
        averages: Sequence[WeightAverage] = (),
    ) -> None:
        """Prepare to write below ``root``.

        Nothing else may write there: what earlier attempts left half written is deleted with each publication.

        Args:
            engine: What is saved.
            root: A directory that all ranks see, or the URL of an object store.
            keep: How many of the newest checkpoints to keep.
            keep_every: Checkpoints of steps that are a multiple of this are kept for ever; 0 means none are.
            averages: Averages of the weights to save too.
        """
        self._engine, self._place, self._averages = engine, Place(str(root)), averages
        self._keep, self._keep_every = keep, keep_every
        self._tensors = state.tensors_of(engine)
        self._empty = state.empty_objects_of(engine)
        self._staging = Staging(engine)
        self._pending: _Pending | None = None
        self._first = dist.get_rank() == 0

    def save(self, step: int, training: dict[str, Any], losses: Sequence[dict[str, Any]]) -> Written | Failed | None:
        """Start to write a checkpoint; returns what became of the one before if it had to be waited for.

        Args:
            step: Steps trained so far.
            training: JSON-able state for ``training.json`` and the manifest; only rank 0's is written. ``layout`` is
                what a resume compares, ``model`` and ``tokenizer`` are what a load checks.
            losses: One JSON-able record per step for ``losses.jsonl``; only rank 0's are written.
        """
        finished = self._finish()
        started, waited = time.perf_counter(), self._staging.waited
        partial, failure = self._begin(step)
        # Written as text at once: the caller goes on to change them.
        lines = "".join(json.dumps(record) + "\n" for record in losses) if self._first else ""
        kept = json.loads(json.dumps(training)) if self._first else {}
        pending = _Pending(partial, step, kept, lines, _Share(failure=failure), started, waited)
        if failure is None:
            slabs = state.slabs_to_write(self._tensors, [average.ranges() for average in self._averages])
            pending.share.empty = self._empty
            pending.share.steps = state.steps_of(self._tensors)
            self._staging.begin()
            pending.thread = threading.Thread(
                target=self._write, args=(pending, slabs, random_state()), name=f"checkpoint-{step}", daemon=True
            )
            pending.thread.start()
        pending.blocked = time.perf_counter() - started
        self._pending = pending
        return finished

    def poll(self) -> Written | Failed | None:
        """See whether the checkpoint in the making is ready, and take the next step if it is; call between steps."""
        pending = self._pending
        if pending is None:
            return None
        started = time.perf_counter()
        alive = pending.thread is not None and pending.thread.is_alive()
        done = torch.tensor(0 if alive else 1, device=self._engine.device)
        dist.all_reduce(done, op=dist.ReduceOp.MIN)
        outcome = self._advance(pending) if int(done) else None
        return self._told(pending, outcome, started)

    def finish(self) -> Written | None:
        """Wait for the checkpoint in the making, if there is one, and publish it.

        Raises:
            StorageError: It could not be written.
        """
        outcome = self._finish()
        if isinstance(outcome, Failed):
            raise StorageError(outcome.reason)
        return outcome

    def discard_after(self, step: int) -> None:
        """Make all checkpoints of later steps unusable, also the one in the making."""
        self._finish()
        if self._first:
            self._place.discard_after(step)
        dist.barrier()

    def _finish(self) -> Written | Failed | None:
        while self._pending is not None:
            pending, started = self._pending, time.perf_counter()
            if pending.thread is not None:
                pending.thread.join()
            outcome = self._told(pending, self._advance(pending), started)
            if outcome is not None:
                return outcome
        return None

    def _told(self, pending: _Pending, outcome: str | None, started: float) -> Written | Failed | None:
        """Account for the time; ``outcome`` is None while it goes on, empty for a success, otherwise the reason."""
        now = time.perf_counter()
        pending.blocked += now - started
        if outcome is None:
            return None
        self._pending = None
        blocked = pending.blocked + self._staging.waited - pending.waited
        if outcome:
            return Failed(pending.step, outcome, blocked)
        return Written(pending.step, blocked, now - pending.started)

    def _begin(self, step: int) -> tuple[Path, str | None]:
        told: list[Any] = [None, None]
        if self._first:
            try:
                told[0] = self._place.begin(step)
            except (OSError, TataraError) as error:
                told[1] = f"cannot write a checkpoint to {self._place.root}: {_said(error)}"
        dist.broadcast_object_list(told, src=0)
        return told[0], told[1]

    def _write(self, pending: _Pending, slabs: list[Slab], random: bytes) -> None:
        """Write this rank's part; in a thread of its own."""
        share, rank = pending.share, dist.get_rank()
        # Until the end is reached: whatever ends this thread must not pass for a success.
        share.failure = self._reason(rank, RuntimeError("its writer ended, see what it printed"))
        try:
            copied = self._staging.copy(slabs)
            self._place.prepare(pending.partial)
            names = [random_file(rank)]
            (pending.partial / "random").mkdir(exist_ok=True)
            share.files.append(_listed(pending.partial, names[0], write_bytes(pending.partial / names[0], random)))
            if copied:
                names.append(f"model/__{rank}_0.distcp")
                share.stored, digest = write_slabs(pending.partial / names[1], copied)
                share.files.append(_listed(pending.partial, names[1], digest))
            self._place.deliver(pending.partial, names)
            share.failure = None
        except (OSError, RuntimeError, TataraError) as error:
            share.failure = self._reason(rank, error)

    def _reason(self, rank: int, error: BaseException) -> str:
        question = ", is the disk full?" if isinstance(error, OSError) else ""
        what = f"cannot write a checkpoint to {self._place.root}"
        return f"{what}: rank {rank} could not write its part{question} ({_said(error)})"

    def _advance(self, pending: _Pending) -> str | None:
        """From written to being published, and from there to an outcome."""
        if not pending.publishing:
            shares: list[Any] | None = [None] * dist.get_world_size() if self._first else None
            dist.gather_object(pending.share, shares, dst=0)
            pending.publishing, pending.thread = True, None
            if shares is not None:
                pending.share = _Share()
                pending.thread = threading.Thread(target=self._publish, args=(pending, shares), daemon=True)
                pending.thread.start()
            return None
        told = [pending.share.failure if self._first else None]
        dist.broadcast_object_list(told, src=0)
        if told[0] and pending.partial is not None:
            shutil.rmtree(pending.partial, ignore_errors=True)
        return told[0] or ""

    def _publish(self, pending: _Pending, shares: Sequence[_Share]) -> None:
        """Make what all ranks have written a checkpoint; in a thread of rank 0."""
        failure = next((share.failure for share in shares if share.failure), None)
        pending.share.failure = failure or self._reason(0, RuntimeError("its publisher ended, see what it printed"))
        try:
            if failure is None:
                files = [file for share in shares for file in share.files] + self._write_common(pending, shares)
                self._place.publish(pending.partial, pending.step, pending.training, files)
                self._place.prune(self._keep, self._keep_every)
        except (OSError, RuntimeError, TataraError) as error:
            failure = self._reason(0, error)
        pending.share.failure = failure

    def _write_common(self, pending: _Pending, shares: Sequence[_Share]) -> list[dict[str, Any]]:
        small = {
            "training.json": json.dumps(pending.training, indent=1),
            "losses.jsonl": pending.losses,
            OPTIMIZER: json.dumps(_steps([share.steps for share in shares])),
        }
        partial = pending.partial
        self._place.prepare(partial)
        files = [_listed(partial, name, write_bytes(partial / name, text.encode())) for name, text in small.items()]
        stored = [each for share in shares for each in share.stored]
        empty = [name for share in shares for name in share.empty]
        hashes = write_index(partial / "model", stored, {"format": "tatara"}, empty)
        return files + [_listed(partial, f"model/{name}", digest) for name, digest in hashes.items()]


def _said(error: BaseException) -> str:
    # Not the name of a private directory.
    told = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    return " ".join(told.split())


def _listed(partial: Path, name: str, digest: str) -> dict[str, Any]:
    return {"path": name, "size": (partial / name).stat().st_size, "hash": digest}


def _steps(shares: Sequence[dict[str, int]]) -> dict[str, Any]:
    """The steps that parameters were updated; those that differ from most by name."""
    every = {name: step for share in shares for name, step in share.items()}
    usual = collections.Counter(every.values()).most_common(1)[0][0] if every else 0
    return {"step": usual, "other": {name: step for name, step in sorted(every.items()) if step != usual}}
