"""What each rank of a pretraining run does. Heavy imports happen in here, in the worker."""

import gc
import json
import math
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tatara.errors import TrainingError
from tatara.model.spec import ModelSpec
from tatara.train.pretrain import PretrainConfig, check_layout, validation_rounds

CHECKPOINTS = "checkpoints"
EVENTS = "events.jsonl"


@dataclass(frozen=True)
class WorkerTask:
    """Everything a rank needs to know; plain values, so that it travels."""

    config: dict[str, Any]
    spec: dict[str, Any]
    tokens_url: str
    sequence_length: int
    work: str


def train(task: dict[str, Any]) -> None:
    """Train from the newest whole checkpoint, or from the start, to the end; the function that Ray Train calls."""
    import ray.train.torch
    import torch

    context = ray.train.get_context()
    # Ray grants fractions of CPUs, but the ranks of a machine share all of its cores.
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // context.get_local_world_size()))
    gpu = ray.train.torch.get_device().index or 0
    Rank(WorkerTask(**task), context.get_world_rank(), gpu).run()


class Rank:
    """One rank of a pretraining run."""

    def __init__(self, task: WorkerTask, rank: int, gpu: int) -> None:
        """Open the data, build the engine and load the newest checkpoint."""
        from tatara.train.lean_imports import import_megatron

        import_megatron()
        from tatara import artifact
        from tatara.train.checkpoint.writer import CheckpointWriter
        from tatara.train.engine import Engine
        from tatara.train.feed.batches import PackedTokens
        from tatara.train.watch.events import EventWriter

        self.rank = rank
        self.config = config = PretrainConfig.model_validate(task.config)
        self.spec = ModelSpec.model_validate(task.spec)
        self.work = Path(task.work)
        # Only rank 0 speaks.
        self._events = EventWriter(self.work / EVENTS) if rank == 0 else None
        tokens = artifact.open_directory(task.tokens_url).local()
        self._train = PackedTokens(tokens, "train", task.sequence_length)
        self._validation_bins: list[list[int]] = []
        self.layout = check_layout(config, self.spec, task.sequence_length)
        if config.validation_sequences:
            self._held_out = PackedTokens(tokens, "validation", task.sequence_length)
            self._validation_bins = validation_rounds(
                config.validation_sequences, self._held_out.num_bins, self.layout, config.micro_batch_size
            )
        self.engine = Engine(
            self.spec,
            config.layout,
            config.optimizer,
            sequence_length=task.sequence_length,
            micro_batch_size=config.micro_batch_size,
            seed=config.seed,
            gpu=gpu,
        )
        self._history: list[dict[str, Any]] = []
        self.step = 0
        self.tokens = 0
        self._resume()
        self._writer = CheckpointWriter(self.engine, self.work / CHECKPOINTS, config.keep_checkpoints)
        # Megatron collects garbage with each checkpoint: looking at all that was imported takes most of its time.
        gc.freeze()

    def run(self) -> None:
        """Train to the last step."""
        for step in range(self.step, self.config.steps):
            self._step(step)
            self._say_written(self._writer.poll())
            last = self.step == self.config.steps
            if self._validation_bins and (last or self.step % self.config.validation_interval == 0):
                self._validate()
            if last or self.step % self.config.checkpoint_interval == 0:
                self._say_written(self._writer.save(self.step, self._training_state(), self._history))
        self._say_written(self._writer.finish())
        if self._events is not None:
            self._events.close()

    def _step(self, step: int) -> None:
        from tatara.train.feed.positions import bins_at, rank_slice, step_positions
        from tatara.train.schedule import learning_rate

        started = time.perf_counter()
        config = self.config
        mine = rank_slice(step_positions(step, config.global_batch_size), self.engine.data_rank, self.layout.dp or 1)
        batch = self._train.batch(bins_at(mine, self._train.num_bins, config.seed))
        rate = learning_rate(config.schedule, config.optimizer.learning_rate, step, config.steps)
        result = self.engine.train_step(batch.split(config.micro_batch_size), rate)
        if not math.isfinite(result.loss) or not math.isfinite(result.gradient_norm):
            raise TrainingError(
                f"the loss at step {step + 1} is {result.loss} (gradient norm {result.gradient_norm}): "
                f"lower optimizer.learning_rate={config.optimizer.learning_rate} or raise schedule.warmup_steps"
            )
        seconds = time.perf_counter() - started
        self.step, self.tokens = step + 1, self.tokens + result.tokens
        self._record(loss=result.loss, learning_rate=rate, gradient_norm=result.gradient_norm, tokens=result.tokens)
        self._say("step", **self._history[-1], seconds=seconds)

    def _validate(self) -> None:
        mine = self._validation_bins[self.engine.data_rank :: self.layout.dp or 1]
        result = self.engine.evaluate([self._held_out.batch(bins) for bins in mine])
        self._record(validation_loss=result.mean, tokens=result.tokens)
        self._say("validation", **self._history[-1])

    def _resume(self) -> None:
        found, workers = self._newest(), self._workers()
        if found is None:
            self._say("started", step=0, workers=workers)
            return
        from tatara.train.checkpoint import writer as checkpoint_writer

        training = checkpoint_writer.load(self.engine, found)
        self.step, self.tokens = int(training["step"]), int(training["tokens"])
        if self.rank == 0:
            lines = (found.path / "losses.jsonl").read_text(encoding="utf-8").splitlines()
            self._history = [json.loads(line) for line in lines]
        self._say("resumed", step=self.step, workers=workers)

    def _workers(self) -> list[Any]:
        """Host and process of every rank, for whoever has to look at one."""
        import torch.distributed as dist

        workers: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(workers, {"rank": self.rank, "host": socket.gethostname(), "pid": os.getpid()})
        return workers

    def _newest(self) -> Any:
        """Rank 0 looks and tells: all ranks must take the same checkpoint."""
        import torch.distributed as dist

        from tatara.train.checkpoint import directories as checkpoint

        found: list[Any] = [None]
        if self.rank == 0:
            root = self.work / CHECKPOINTS
            root.mkdir(parents=True, exist_ok=True)
            found = [checkpoint.newest(root, lambda message: self._say("log", message=message))]
        dist.broadcast_object_list(found, src=0)
        return found[0]

    def _training_state(self) -> dict[str, Any]:
        config = self.config
        return {
            "step": self.step,
            "steps": config.steps,
            "tokens": self.tokens,
            "sequences": self.step * config.global_batch_size,
            "seed": config.seed,
            "loss": next((record["loss"] for record in reversed(self._history) if "loss" in record), None),
            "layout": self.layout.dump(),
            "world_size": self.layout.model_ranks * (self.layout.dp or 1),
            "optimizer": config.optimizer.dump(),
            "schedule": config.schedule.dump(),
        }

    def _record(self, **values: Any) -> None:
        self._history.append({"step": self.step, **values})

    def _say(self, kind: str, **values: Any) -> None:
        if self._events is not None:
            self._events.write(kind, **values)

    def _say_written(self, written: Any) -> None:
        if written is not None:
            self._say("checkpoint", **vars(written))


def read_losses(path: Path) -> Iterator[dict[str, Any]]:
    """Records of a ``losses.jsonl``: training steps have ``loss``, validations ``validation_loss``."""
    with open(path, encoding="utf-8") as stream:
        for line in stream:
            yield json.loads(line)
