"""Megatron distributed checkpoints, written while training goes on.

Megatron's own asynchronous path forks the trainer, which needs seconds the first time and is not safe next to the
threads of gloo, Ray and OpenMP. The plan it makes is used here; the files are written by a thread from a copy of the
tensors, and the finish (gathering what was written, the metadata) happens between two steps on all ranks.
"""

import json
import queue
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing.mapping import ShardedObject
from megatron.core.dist_checkpointing.strategies import filesystem_async
from megatron.core.dist_checkpointing.strategies.torch import TorchDistSaveShardedStrategy
from megatron.core.tensor_parallel import get_cuda_rng_tracker
from torch.distributed.checkpoint.api import CheckpointException

from tatara import storage
from tatara.errors import StorageError
from tatara.train.checkpoint import directories as checkpoint
from tatara.train.checkpoint.directories import Checkpoint
from tatara.train.engine import SHARDING, Engine

# One file per rank: a second writer thread would only compete with training.
_WRITER_THREADS = 1


@dataclass(frozen=True)
class Written:
    """A checkpoint that was published, and what it cost."""

    step: int
    blocked_seconds: float
    """Time that training stood still for it, on this rank."""
    seconds: float
    """From the start to the publication."""


@dataclass
class _Pending:
    partial: Path
    step: int
    description: dict[str, Any]
    request: Any
    thread: threading.Thread
    started: float
    blocked: float


class CheckpointWriter:
    """Writes checkpoints of one engine. Every method is collective over all ranks."""

    def __init__(self, engine: Engine, root: Path, keep: int) -> None:
        """Prepare to write below ``root``, keeping the newest ``keep`` checkpoints.

        Nothing else may write there: what earlier attempts left half written is deleted with each publication.
        """
        self._engine, self._root, self._keep = engine, root, keep
        self._strategy = TorchDistSaveShardedStrategy("torch_dist", 1, thread_count=_WRITER_THREADS)
        self._validated = False
        self._pending: _Pending | None = None
        # Megatron starts a manager process for this queue, to reach across a fork; a thread needs none.
        filesystem_async._results_queue = queue.Queue()

    def save(self, step: int, training: dict[str, Any], losses: Sequence[dict[str, Any]]) -> Written | None:
        """Start to write a checkpoint; returns the one before if it had to be waited for.

        Args:
            step: Steps trained so far.
            training: JSON-able state for ``training.json`` and the manifest; only rank 0's is written.
            losses: One JSON-able record per step for ``losses.jsonl``; only rank 0's are written.

        Raises:
            StorageError: The disk is full, or cannot be written.
        """
        finished = self.finish()
        with storage.errors_named(str(self._root), "write a checkpoint to"):
            self._pending = self._start(step, training, losses)
        return finished

    def _start(self, step: int, training: dict[str, Any], losses: Sequence[dict[str, Any]]) -> _Pending:
        started = time.perf_counter()
        partial = self._begin(step)
        state = self._engine.sharded_state(loading=False)
        state["rng"] = _random_state()
        request = dist_checkpointing.save(
            state,
            str(partial / "model"),
            self._strategy,
            validate_access_integrity=not self._validated,
            async_sharded_save=True,
            content_metadata=dict(SHARDING),
        )
        self._validated = True
        # Megatron stages with `Tensor.to("cpu")`, no copy on a CPU: the next step would change what is written.
        buckets = _copied(request.async_fn_args[1]) if request.async_fn is not None else []
        if dist.get_rank() == 0:
            (partial / "training.json").write_text(json.dumps(training, indent=1), encoding="utf-8")
            lines = "".join(json.dumps(record) + "\n" for record in losses)
            (partial / "losses.jsonl").write_text(lines, encoding="utf-8")
        thread = threading.Thread(target=_write, args=(request, buckets), name=f"checkpoint-{step}", daemon=True)
        thread.start()
        return _Pending(partial, step, training, request, thread, started, time.perf_counter() - started)

    def poll(self) -> Written | None:
        """Publish the checkpoint in the making if every rank has written its part; call between steps."""
        if self._pending is None:
            return None
        started = time.perf_counter()
        done = torch.tensor(0 if self._pending.thread.is_alive() else 1, device=self._engine.device)
        dist.all_reduce(done, op=dist.ReduceOp.MIN)
        self._pending.blocked += time.perf_counter() - started
        return self.finish() if int(done) else None

    def finish(self) -> Written | None:
        """Wait for the checkpoint in the making, if there is one, and publish it.

        Raises:
            StorageError: A rank could not write its part; it is told on rank 0.
        """
        pending, self._pending = self._pending, None
        if pending is None:
            return None
        started = time.perf_counter()
        pending.thread.join()
        with storage.errors_named(str(self._root), "write a checkpoint to"):
            _finalise(pending.request, self._root)
            if dist.get_rank() == 0:
                checkpoint.publish(pending.partial, pending.step, pending.description)
                checkpoint.prune(self._root, self._keep)
        dist.barrier()
        now = time.perf_counter()
        return Written(pending.step, pending.blocked + now - started, now - pending.started)

    def _begin(self, step: int) -> Path:
        path: list[Any] = [checkpoint.begin(self._root, step) if dist.get_rank() == 0 else None]
        dist.broadcast_object_list(path, src=0)
        return Path(path[0])


def load(engine: Engine, found: Checkpoint) -> dict[str, Any]:
    """Load a checkpoint, taken in any layout, into an engine; collective over all ranks.

    Random state is taken over where the layout is the same; in another layout it starts from the engine's seed.

    Returns:
        What was given to `CheckpointWriter.save` as ``training``.
    """
    training: dict[str, Any] = json.loads((found.path / "training.json").read_text(encoding="utf-8"))
    state = engine.sharded_state(loading=True)
    same_layout = training["layout"] == engine.layout.dump()
    if same_layout:
        state["rng"] = _random_state()
    loaded = dist_checkpointing.load(state, str(found.path / "model"), ("torch_dist", 1))
    engine.load_state(loaded)
    if same_layout:
        torch.set_rng_state(loaded["rng"]["cpu"])
        if "cuda" in loaded["rng"]:
            torch.cuda.set_rng_state(loaded["rng"]["cuda"])
        get_cuda_rng_tracker().set_states(loaded["rng"]["tracker"])
    return training


def _finalise(request: Any, root: Path) -> None:
    """Gather what every rank wrote, on rank 0."""
    try:
        for finalise in request.finalize_fns:
            finalise()
    except CheckpointException as error:
        # torch's archive writer tells a full disk as an unexpected position in the file.
        rank, (cause, _) = next(iter(error.failures.items()))
        told = str(cause).splitlines()[-1] if str(cause) else type(cause).__name__
        raise StorageError(
            f"cannot write a checkpoint to {root}: rank {rank} could not write its part, is the disk full? ({told})"
        ) from error


def _random_state() -> ShardedObject:
    state = {"cpu": torch.get_rng_state(), "tracker": get_cuda_rng_tracker().get_states()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        state["cuda"] = torch.cuda.get_rng_state()
    return ShardedObject("rng", state, (dist.get_world_size(),), (dist.get_rank(),), replica_id=0)


def _copied(buckets: Sequence[Any]) -> list[Any]:
    return [
        (name, key, (objects, [(item, tensor.detach().to("cpu", copy=True)) for item, tensor in tensors]))
        for name, key, (objects, tensors) in buckets
    ]


def _write(request: Any, buckets: Sequence[Any]) -> None:
    """Do in this thread what Megatron's `write_preloaded_data_multiproc` does in forked processes."""
    transforms = request.async_fn.args[0] if request.async_fn is not None else []
    results: dict[int, Any] | Exception = {}
    for index, bucket in enumerate(buckets):
        answers: queue.Queue[tuple[int, Any]] = queue.Queue()
        running: queue.Queue[int] = queue.Queue()
        running.put(index)
        filesystem_async.FileSystemWriterAsync.write_preloaded_data(
            transforms, index, bucket, answers, running, use_fsync=True
        )
        _, answer = answers.get()
        if isinstance(answer, Exception):
            results = answer
            break
        assert isinstance(results, dict)
        results[index] = answer
    if request.async_fn is not None:
        request.async_fn_args[2].put(results)
