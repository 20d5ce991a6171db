"""One rank of a training run, whatever it learns from: engine, guard, watch and checkpoints around a loop of steps."""

import gc
import json
import os
import socket
import time
from pathlib import Path
from typing import Any

from tatara.errors import TrainingError
from tatara.model.spec import ModelSpec
from tatara.train.learned import Learned, Planned
from tatara.train.settings import TrainingSettings
from tatara.train.task import EVENTS, HANGS, ROLLBACKS, WorkerTask, read_losses

__all__ = ["Planned", "Rank"]


class Rank(Learned):
    """One rank of a training run. Where its batches come from is its subclass's business: see `Learned`.

    Attributes:
        step: Steps that the model has learned from.
        engine: The model.
        layout: With ``dp`` resolved.
    """

    def __init__(self, task: WorkerTask, config: TrainingSettings, rank: int, gpu: int) -> None:
        """Open the data, build the engine and load the newest checkpoint."""
        from tatara.train.lean_imports import import_megatron

        import_megatron()

        from tatara.model.attention import chosen_kernel
        from tatara.train.checkpoint.writer import CheckpointWriter
        from tatara.train.engine import Engine
        from tatara.train.watch.events import EventWriter
        from tatara.train.watch.guard import Guard
        from tatara.train.watching import Watch

        self.rank, self.task = rank, task
        self.settings = config
        self.spec = ModelSpec.model_validate(task.spec)
        self.work = Path(task.work)
        self.step = 0
        self.tokens = 0
        self._history: list[dict[str, Any]] = []
        # Only rank 0 speaks.
        self._events = EventWriter(self.work / EVENTS) if rank == 0 else None
        self.layout = config.layout.resolve(config.num_workers)
        self._open()
        self.engine = Engine(
            self._spec_at(0),
            config.layout,
            config.optimizer,
            micro_batch_size=config.micro_batch_size,
            seed=config.seed,
            gpu=gpu,
            compute=config.compute,
        )
        fp8 = config.compute.fp8 != "none"
        self.watch = Watch(self.engine, config.watch, self.work / HANGS, self._say, self.work / EVENTS, fp8=fp8)
        self.guard = Guard(config.guard, config.optimizer.learning_rate, config.schedule.warmup_steps)
        self._averages = self._resume()
        self._say("log", message=f"attention: {chosen_kernel(config.compute.attention, self.engine.dtype)}")
        self._writer = CheckpointWriter(
            self.engine,
            task.checkpoints,
            config.keep_checkpoints,
            keep_every=config.keep_every or 0,
            averages=self._averages,
        )
        self._ready()
        # Megatron collects garbage with each checkpoint: looking at all that was imported takes most of its time.
        gc.freeze()

    def __enter__(self) -> "Rank":
        self.watch.start(self.step)
        return self

    def __exit__(self, *_: Any) -> None:
        self.watch.close()
        if self._events is not None:
            self._events.close()

    def run(self) -> None:
        """Train to the last step."""
        while self.step < self.settings.steps:
            if not self._step(self.step):
                continue
            for average in self._averages:
                average.update(self.step)
            self._say_written(self._writer.poll())
            last = self.step == self.settings.steps
            self._after(last)
            if last or self.step % self.settings.checkpoint_interval == 0:
                self.watch.beat(self.step, "checkpoint")
                self._say_written(self._writer.save(self.step, self._training_state(), self._history))
        self._say_written(self._writer.finish())

    def _step(self, step: int) -> bool:
        """Train one step; says whether training goes on with the next one, or was set back."""
        from tatara.train.optimizer import weight_decay
        from tatara.train.schedule import learning_rate
        from tatara.train.watch.guard import Verdict

        config, verdict = self.settings, Verdict("go")

        def approve(loss: float, gradient_norm: float) -> bool:
            nonlocal verdict
            verdict = self.guard.look(step, loss, gradient_norm)
            return verdict.applies

        started = time.perf_counter()
        with self.watch.step(step):
            with self.watch.loading():
                batches = self._batches(step)
            rate = learning_rate(config.schedule, config.optimizer.learning_rate, step, config.steps)
            decay = weight_decay(config.optimizer, step, config.steps)
            try:
                result = self._train(batches, rate, decay, approve)
            except (RuntimeError, MemoryError) as error:
                from tatara.train.memory import as_engine_error, out_of_memory

                if not out_of_memory(error):
                    raise
                planned = self._planned(step)
                raise as_engine_error(
                    error,
                    step,
                    self.spec,
                    self.layout,
                    config.compute,
                    sequence_length=planned.sequence_length,
                    global_batch_size=planned.sequences,
                    micro_batch_size=config.micro_batch_size,
                ) from error
        seconds = time.perf_counter() - started
        if verdict.action != "go":
            figures = {"loss": result.loss, "gradient_norm": result.gradient_norm}
            told = {"action": verdict.action, "reason": verdict.reason, **figures, **self._planned(step).lineage}
            self._say("guard", step=step + 1, **told)
        if verdict.action == "stop":
            raise TrainingError(verdict.reason + self._corrupted())
        if verdict.action == "rollback":
            self._roll_back(step, verdict.reason)
            return False
        self.step, self.tokens = step + 1, self.tokens + result.tokens
        skipped = {} if result.applied else {"skipped": True}
        self._record(
            loss=result.loss, learning_rate=rate, gradient_norm=result.gradient_norm, tokens=result.tokens, **skipped
        )
        measured = self.watch.figures(self.spec, result.load, seconds)
        self._say("step", **self._history[-1], seconds=seconds, **measured, **result.figures)
        self.watch.look(self.step)
        return True

    def _corrupted(self) -> str:
        """Which weights are not numbers, if any, for an error's end."""
        names = self.engine.not_finite()
        return f" ({len(names)} weights are not finite, such as {names[0]})" if names else ""

    def _roll_back(self, step: int, reason: str) -> None:
        """Go on from an earlier checkpoint, with the data after the step that failed."""
        import torch.distributed as dist

        from tatara import storage
        from tatara.train.checkpoint import loading
        from tatara.train.checkpoint.places import Place

        self.watch.beat(step, "roll back")
        steps: list[list[int]] = [[]]
        if self.rank == 0:
            steps = [[found.step for found in Place(self.task.checkpoints).candidates(lambda _: None)]]
        dist.broadcast_object_list(steps, src=0)
        back = self.settings.guard.rollback_checkpoints
        # Also ends the one in the making.
        self._writer.discard_after(steps[0][min(back, len(steps[0])) - 1] if steps[0] else 0)
        found = self._newest()
        if found is None:
            raise TrainingError(f"{reason}; there is no checkpoint to go back to: lower checkpoint_interval")
        training = loading.load(self.engine, found, averages=self._averages)
        self.guard.rolled_back(step, int(training["step"]), training["guard"])
        if self.rank == 0:
            # A checkpoint from before does not know of it.
            storage.replace_bytes(self.work / ROLLBACKS, json.dumps(self.guard.state()).encode())
        self._take_over(found, training)
        self._say("log", message=f"rolled back to step {self.step}: {reason}")

    def _resume(self) -> list[Any]:
        """Load what there is to load; returns the averages that are kept of the weights."""
        from tatara.train.checkpoint import loading

        found, workers = self._newest(), self._workers()
        if found is not None:
            averages = self._make_averages()
            training = loading.load(self.engine, found, averages=averages, tokenizer=self.task.tokenizer)
            journal = self.work / ROLLBACKS
            self.guard.restore(training["guard"], json.loads(journal.read_text()) if journal.is_file() else None)
            self._take_over(found, training)
            self._say("resumed", step=self.step, workers=workers)
            return averages
        self._load_initial()
        self._say("started", step=0, workers=workers)
        return self._make_averages()

    def _load_initial(self) -> None:
        """Take over the weights that the run starts from, if they are not random."""
        from tatara import artifact
        from tatara.train.checkpoint import directories, loading

        if self.task.initial is not None:
            start = directories.opened(artifact.open_directory(self.task.initial).local())
            loading.load(self.engine, start, optimizer=self._keeps_optimizer(), tokenizer=self.task.tokenizer)

    def _make_averages(self) -> list[Any]:
        from tatara.train.checkpoint.averages import WeightAverage

        settings = self.settings.average
        if settings.kind == "none":
            return []
        return [
            WeightAverage(self.engine, settings.kind, decay=settings.decay, every=settings.every, last=settings.last)
        ]

    def _take_over(self, found: Any, training: dict[str, Any]) -> None:
        """Go on from where a checkpoint was taken."""
        self.step, self.tokens = int(training["step"]), int(training["tokens"])
        if self.rank == 0:
            self._history = list(read_losses(found.path / "losses.jsonl"))
        self._skipped()

    def _workers(self) -> list[Any]:
        """Host and process of every rank, for whoever has to look at one."""
        import torch.distributed as dist

        workers: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(workers, {"rank": self.rank, "host": socket.gethostname(), "pid": os.getpid()})
        return workers

    def _newest(self) -> Any:
        from tatara.train.checkpoint import loading

        root = self.task.checkpoints
        return loading.find(root, lambda message: self._say("log", message=message), self.engine)

    def _training_state(self) -> dict[str, Any]:
        config = self.settings
        return {
            "step": self.step,
            "steps": config.steps,
            "tokens": self.tokens,
            "seed": config.seed,
            "loss": next((record["loss"] for record in reversed(self._history) if "loss" in record), None),
            "layout": self.layout.dump(),
            "world_size": self.layout.model_ranks * (self.layout.dp or 1),
            "optimizer": config.optimizer.dump(),
            "schedule": config.schedule.dump(),
            "guard": self.guard.state(),
            "model": self.engine.spec.dump(),
            "tokenizer": self.task.tokenizer,
            **self._data_state(),
        }

    def _record(self, **values: Any) -> None:
        self._history.append({"step": self.step, **values})

    def _say(self, kind: str, **values: Any) -> None:
        if self._events is not None:
            self._events.write(kind, **values)

    def _say_written(self, written: Any) -> None:
        if written is None:
            return
        if hasattr(written, "reason"):
            self._say("log", message=f"CHECKPOINT OF STEP {written.step} FAILED: {written.reason}")
        else:
            self._written(written.step)
            self._say("checkpoint", **vars(written))
