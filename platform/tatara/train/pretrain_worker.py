"""What each rank of a training run does. Heavy imports happen in here, in the worker."""

import gc
import json
import os
import socket
import time
from pathlib import Path
from typing import Any

from tatara.errors import TrainingError
from tatara.model.spec import ModelSpec
from tatara.train.pretrain import PretrainConfig, check_layout, spec_at
from tatara.train.task import EVENTS, HANGS, ROLLBACKS, WorkerTask, read_losses


def train(task: dict[str, Any]) -> None:
    """Train from the newest whole checkpoint, or from the start, to the end; the function that Ray Train calls."""
    import ray.train.torch
    import torch

    context = ray.train.get_context()
    # Ray grants fractions of CPUs, but the ranks of a machine share all of its cores.
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // context.get_local_world_size()))
    gpu = ray.train.torch.get_device().index or 0
    rank = Rank(WorkerTask(**task), context.get_world_rank(), gpu)
    with rank:
        rank.run()


class Rank:
    """One rank of a training run."""

    def __init__(self, task: WorkerTask, rank: int, gpu: int) -> None:
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
        self.config = config = PretrainConfig.model_validate(task.config)
        self.spec = ModelSpec.model_validate(task.spec)
        self.work = Path(task.work)
        self.step = 0
        self.tokens = 0
        self._history: list[dict[str, Any]] = []
        # Only rank 0 speaks.
        self._events = EventWriter(self.work / EVENTS) if rank == 0 else None
        self._open_data()
        self.engine = Engine(
            spec_at(self.spec, self.feed.plan, 0),
            config.layout,
            config.optimizer,
            micro_batch_size=config.micro_batch_size,
            seed=config.seed,
            gpu=gpu,
            compute=config.compute,
        )
        fp8 = config.compute.fp8 != "none"
        self._watch = Watch(self.engine, config.watch, self.work / HANGS, self._say, self.work / EVENTS, fp8=fp8)
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
        # Megatron collects garbage with each checkpoint: looking at all that was imported takes most of its time.
        gc.freeze()

    def _open_data(self) -> None:
        from tatara import artifact
        from tatara.train.feed.reader import Feed
        from tatara.train.feed.sources import open_sources, source_sizes
        from tatara.train.feed.validation import validation_sets

        config, layout = self.config, self.config.layout
        directories = {name: artifact.open_directory(url).local() for name, url in self.task.sources.items()}
        sources = open_sources(directories, "train", self.spec.vocab_size)
        plan = config.plan(source_sizes(sources))
        self.layout = check_layout(config, self.spec, plan)
        self.feed = Feed(sources, plan)
        self._validation = []
        if config.validation_sequences:
            multiple = (self.layout.dp or 1) * (layout.pp if layout.virtual_stages > 1 else 1)
            held_out = open_sources(directories, "validation", self.spec.vocab_size)
            self._validation = validation_sets(held_out, config.validation_sequences, config.micro_batch_size, multiple)

    def __enter__(self) -> "Rank":
        self._watch.start(self.step)
        return self

    def __exit__(self, *_: Any) -> None:
        self._watch.close()
        self.feed.close()
        if self._events is not None:
            self._events.close()

    def run(self) -> None:
        """Train to the last step."""
        while self.step < self.config.steps:
            if not self._step(self.step):
                continue
            for average in self._averages:
                average.update(self.step)
            self._say_written(self._writer.poll())
            last = self.step == self.config.steps
            if self._validation and (last or self.step % self.config.validation_interval == 0):
                self._validate()
            if last or self.step % self.config.checkpoint_interval == 0:
                self._watch.beat(self.step, "checkpoint")
                self._say_written(self._writer.save(self.step, self._training_state(), self._history))
        self._say_written(self._writer.finish())

    def _step(self, step: int) -> bool:
        """Train one step; says whether training goes on with the next one, or was set back."""
        from tatara.train.optimizer import weight_decay
        from tatara.train.schedule import learning_rate
        from tatara.train.watch.guard import Verdict

        config, verdict = self.config, Verdict("go")

        def approve(loss: float, gradient_norm: float) -> bool:
            nonlocal verdict
            verdict = self.guard.look(step, loss, gradient_norm)
            return verdict.applies

        started = time.perf_counter()
        with self._watch.step(step):
            self._follow_phase(step)
            with self._watch.loading():
                batches = self.feed.batch(step, self.engine.data_rank, self.layout.dp or 1, config.micro_batch_size)
            rate = learning_rate(config.schedule, config.optimizer.learning_rate, step, config.steps)
            decay = weight_decay(config.optimizer, step, config.steps)
            try:
                result = self.engine.train_step(batches, rate, weight_decay=decay, approve=approve)
            except (RuntimeError, MemoryError) as error:
                from tatara.train.memory import as_engine_error, out_of_memory

                if not out_of_memory(error):
                    raise
                planned = self.feed.plan.at(step)
                raise as_engine_error(
                    error,
                    step,
                    self.spec,
                    self.layout,
                    config.compute,
                    sequence_length=planned.sequence_length,
                    global_batch_size=len(planned.positions),
                    micro_batch_size=config.micro_batch_size,
                ) from error
        seconds = time.perf_counter() - started
        if verdict.action != "go":
            self._say("guard", step=step + 1, **self._action(step, verdict, result))
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
        self._say("step", **self._history[-1], seconds=seconds, **self._watch.figures(self.spec, result.load, seconds))
        self._watch.look(self.step)
        return True

    def _follow_phase(self, step: int) -> None:
        """Give the model the rotary settings of a step's phase."""
        from tatara.model.megatron import set_rope

        spec = spec_at(self.spec, self.feed.plan, step)
        if spec != self.engine.spec:
            set_rope(self.engine.chunks, spec)
            self.engine.spec = spec
            scaling = f", scaled by {spec.rope_scaling.type} {spec.rope_scaling.factor:g}" if spec.rope_scaling else ""
            context = f"up to {spec.max_position_embeddings} tokens"
            self._say("log", message=f"from step {step + 1} on rope_theta={spec.rope_theta:g}{scaling}, {context}")

    def _action(self, step: int, verdict: Any, result: Any) -> dict[str, Any]:
        """What lineage keeps of a verdict."""
        planned = self.feed.plan.at(step)
        return {
            "action": verdict.action,
            "reason": verdict.reason,
            "loss": result.loss,
            "gradient_norm": result.gradient_norm,
            "data_step": planned.data_step,
            "positions": [planned.positions.start, planned.positions.stop],
        }

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

        self._watch.beat(step, "roll back")
        steps: list[list[int]] = [[]]
        if self.rank == 0:
            steps = [[found.step for found in Place(self.task.checkpoints).candidates(lambda _: None)]]
        dist.broadcast_object_list(steps, src=0)
        back = self.config.guard.rollback_checkpoints
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

    def _validate(self) -> None:
        from tatara.train.validating import validate

        started = time.perf_counter()
        average = self._averages[0] if self._averages and self.config.average.validate_average else None
        values, targets = validate(
            self.engine, self._validation, self.layout.dp or 1, average, lambda what: self._watch.beat(self.step, what)
        )
        self._record(**values, tokens=targets)
        self._say("validation", **self._history[-1], seconds=time.perf_counter() - started)

    def _resume(self) -> list[Any]:
        """Load what there is to load; returns the averages that are kept of the weights."""
        from tatara import artifact
        from tatara.train.checkpoint import directories, loading

        found, workers = self._newest(), self._workers()
        if found is not None:
            averages = self._make_averages()
            training = loading.load(self.engine, found, averages=averages, tokenizer=self.task.tokenizer)
            journal = self.work / ROLLBACKS
            self.guard.restore(training["guard"], json.loads(journal.read_text()) if journal.is_file() else None)
            self._take_over(found, training)
            self._say("resumed", step=self.step, workers=workers)
            return averages
        if self.task.initial is not None:
            start = directories.opened(artifact.open_directory(self.task.initial).local())
            keep = self.config.initial.optimizer == "keep"
            loading.load(self.engine, start, optimizer=keep, tokenizer=self.task.tokenizer)
        self._say("started", step=0, workers=workers)
        return self._make_averages()

    def _make_averages(self) -> list[Any]:
        from tatara.train.checkpoint.averages import WeightAverage

        settings = self.config.average
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
        if self.guard.skips != self.feed.plan.skips:
            self.feed.replan(self.feed.plan.with_skips(self.guard.skips))

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
        config, plan = self.config, self.feed.plan
        return {
            "step": self.step,
            "steps": config.steps,
            "tokens": self.tokens,
            "sequences": plan.at(self.step).positions.start,
            "seed": config.seed,
            "loss": next((record["loss"] for record in reversed(self._history) if "loss" in record), None),
            "layout": self.layout.dump(),
            "world_size": self.layout.model_ranks * (self.layout.dp or 1),
            "optimizer": config.optimizer.dump(),
            "schedule": config.schedule.dump(),
            "guard": self.guard.state(),
            "skips": [skip.dump() for skip in plan.skips],
            "model": self.engine.spec.dump(),
            "tokenizer": self.task.tokenizer,
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
            self._say("checkpoint", **vars(written))
