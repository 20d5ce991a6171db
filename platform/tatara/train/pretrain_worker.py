"""What each rank of a pretraining run does. Heavy imports happen in here, in the worker."""

import os
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tatara.model.spec import ModelSpec
from tatara.train.pretrain import PretrainConfig, check_layout, spec_at
from tatara.train.rank import Planned, Rank
from tatara.train.task import WorkerTask

if TYPE_CHECKING:
    from tatara.train.feed.batches import Batch


def train(task: dict[str, Any]) -> None:
    """Train from the newest whole checkpoint, or from the start, to the end; the function that Ray Train calls."""
    rank, gpu = start_worker()
    with PretrainRank(WorkerTask(**task), rank, gpu) as worker:
        worker.run()


def start_worker() -> tuple[int, int]:
    """Take this process's share of the machine; returns its rank and its GPU."""
    import ray.train.torch
    import torch

    context = ray.train.get_context()
    # Ray grants fractions of CPUs, but the ranks of a machine share all of its cores.
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // context.get_local_world_size()))
    return context.get_world_rank(), ray.train.torch.get_device().index or 0


class PretrainRank(Rank):
    """One rank of a pretraining run: fed from packed tokens by phases, and validated."""

    def __init__(self, task: WorkerTask, rank: int, gpu: int) -> None:
        """Open the data, build the engine and load the newest checkpoint."""
        self.config = PretrainConfig.model_validate(task.config)
        super().__init__(task, self.config, rank, gpu)

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self.feed.close()

    def _open(self) -> None:
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

    def _spec_at(self, step: int) -> ModelSpec:
        return spec_at(self.spec, self.feed.plan, step)

    def _batches(self, step: int) -> "Sequence[Batch]":
        self._follow_phase(step)
        return self.feed.batch(step, self.engine.data_rank, self.layout.dp or 1, self.config.micro_batch_size)

    def _planned(self, step: int) -> Planned:
        planned = self.feed.plan.at(step)
        positions = [planned.positions.start, planned.positions.stop]
        lineage = {"data_step": planned.data_step, "positions": positions}
        return Planned(planned.sequence_length, len(planned.positions), lineage)

    def _after(self, last: bool) -> None:
        if self._validation and (last or self.step % self.config.validation_interval == 0):
            self._validate()

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

    def _validate(self) -> None:
        from tatara.train.validating import validate

        started = time.perf_counter()
        average = self._averages[0] if self._averages and self.config.average.validate_average else None
        values, targets = validate(
            self.engine, self._validation, self.layout.dp or 1, average, lambda what: self.watch.beat(self.step, what)
        )
        self._record(**values, tokens=targets)
        self._say("validation", **self._history[-1], seconds=time.perf_counter() - started)

    def _skipped(self) -> None:
        if self.guard.skips != self.feed.plan.skips:
            self.feed.replan(self.feed.plan.with_skips(self.guard.skips))

    def _keeps_optimizer(self) -> bool:
        return self.config.initial.optimizer == "keep"

    def _data_state(self) -> dict[str, Any]:
        plan = self.feed.plan
        return {"sequences": plan.at(self.step).positions.start, "skips": [skip.dump() for skip in plan.skips]}
