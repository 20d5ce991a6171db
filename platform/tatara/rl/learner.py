"""The learner: a rank of the trainer that is fed by the buffer and sends its weights to the engines."""

import itertools
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tatara.errors import TrainingError
from tatara.rl.client import BufferClient
from tatara.rl.grpo import GrpoConfig
from tatara.rl.probing import TrainerProbe
from tatara.rl.publisher import Publisher, Sending
from tatara.rl.record import ScoredGroup
from tatara.rl.task import LearnerTask
from tatara.train.pretrain_worker import start_worker
from tatara.train.rank import Planned, Rank

if TYPE_CHECKING:
    from tatara.rl.batching import PackedGroups
    from tatara.train.engine import StepResult
    from tatara.train.feed.batches import Batch
    from tatara.train.feed.policy_batch import PolicyBatch

POLL_SECONDS = 5.0
"""Longest single question for a batch; between two the other ranks hear that all is well."""
_END_SECONDS = 0.2
_READY, _WAIT, _REPUBLISH = 0, 1, 2


def train(task: dict[str, Any]) -> None:
    """Learn from the newest whole checkpoint, or from the start, to the end; the function that Ray Train calls."""
    rank, gpu = start_worker()
    with Learner(LearnerTask(**task), rank, gpu) as worker:
        worker.run()


class Learner(Rank):
    """One rank of the learner.

    Version v of the policy is what the model is after v rollout batches; rollout batch b makes version b + 1 of version
    b, in as many optimizer steps as there are minibatches.
    """

    task: LearnerTask

    def __init__(self, task: LearnerTask, rank: int, gpu: int) -> None:
        """Find the buffer, build the engine, load the newest checkpoint and publish its weights."""
        self.config = GrpoConfig.model_validate(task.config)
        self._batch: tuple[int, list[PolicyBatch]] | None = None
        self._spans: list[tuple[float, float, str]] = []
        self._figures: dict[str, float] = {}
        self._targets: list[int] = []
        self._safe: int | None = None
        self._publisher: Publisher | None = None
        super().__init__(task, self.config, rank, gpu)

    @property
    def version(self) -> int:
        """Version of the policy that the model is."""
        return self.step // self.config.minibatches

    def _open(self) -> None:
        import torch

        self._buffer = BufferClient(self.task.buffer, self.config.sync.timeout)
        if not torch.cuda.is_available():
            # Engines compute on the same cores, and more threads than cores wait for each other most of the time.
            sharing = self.config.num_workers + self.config.rollout.engines
            torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // sharing))

    def __exit__(self, *error: Any) -> None:
        if self._publisher is not None:
            self._publisher.close()
        super().__exit__(*error)

    def _load_initial(self) -> None:
        super()._load_initial()
        self._keep_reference()

    def _keep_reference(self) -> None:
        """Hold on to the weights that the run starts from, where the algorithm compares with them."""
        from tatara.train.policy_reference import Reference

        self._reference = Reference(self.engine) if self.config.algorithm.needs_reference else None

    def _resume(self) -> list[Any]:
        if self._newest() is not None:
            if self.config.algorithm.needs_reference:
                # The reference is what the run began with; the checkpoint's weights come after it.
                super()._load_initial()
            self._keep_reference()
        return super()._resume()

    def _ready(self) -> None:
        self._probe = TrainerProbe(self.engine, self.layout, self.config, self.task.probe_ids)
        buffer = self._buffer if self.rank == 0 else None
        self._publisher = Publisher(
            self.engine, buffer, Sending.of(self.config), self._agree, lambda line: self._say("log", message=line)
        )
        self._publish()

    def _planned(self, step: int) -> Planned:
        rows = sum(map(len, self._batch[1])) * (self.layout.dp or 1) if self._batch is not None else 0
        return Planned(self.config.sequence_length, rows, {"rollout_batch": step // self.config.minibatches})

    def _batches(self, step: int) -> "Sequence[Batch]":
        number, part = divmod(step, self.config.minibatches)
        if self._batch is None or self._batch[0] != number:
            with self._timed("wait"):
                groups = self._wait_for(number)
            with self._timed("train"):
                self._batch = (number, self._prepare(groups))
        return self._batch[1][part].split(self.config.micro_batch_size)

    def _wait_for(self, number: int) -> tuple[ScoredGroup, ...]:
        """A rollout batch, the same on every rank; rank 0 asks until it is there."""
        started = time.monotonic()
        while True:
            code, reply = _WAIT, None
            if self.rank == 0:
                reply = self._buffer.batch(number, POLL_SECONDS)
                code = _REPUBLISH if reply.republish else _READY if reply.groups is not None else _WAIT
            code = self._agree(code)
            if code == _READY:
                reply = reply or self._buffer.batch(number, POLL_SECONDS)
                if reply.groups is None:
                    raise TrainingError(f"the buffer lost rollout batch {number}, which it had handed out: start over")
                return tuple(reply.groups)
            if code == _REPUBLISH:
                self._publish(objects=True)
            self.watch.beat(self.step, f"waiting for rollout batch {number}")
            if time.monotonic() - started > self.config.batch_timeout:
                raise TrainingError(
                    f"no rollout batch {number} within batch_timeout={self.config.batch_timeout:g} s: "
                    f"{self._buffer.status()['waiting_for']}"
                )

    def _agree(self, code: int) -> int:
        """What rank 0 found."""
        import torch
        import torch.distributed as dist

        told = torch.tensor([code], device=self.engine.device)
        if dist.get_world_size() > 1:
            dist.broadcast(told, src=0)
        return int(told.item())

    def _prepare(self, groups: Sequence[ScoredGroup]) -> "list[PolicyBatch]":
        """This rank's share of each minibatch, with the log-probabilities that the loss compares with."""
        from tatara.rl.batching import pack_groups

        config = self.config
        self._loss = config.algorithm.policy_loss(groups[0].rollouts[0].sampling.temperature)
        cuts = [len(groups) * part // config.minibatches for part in range(config.minibatches + 1)]
        shares = []
        self._targets.clear()
        for start, end in itertools.pairwise(cuts):
            packed = pack_groups(
                groups[start:end],
                config.algorithm,
                config.sequence_length,
                rows_multiple=(self.layout.dp or 1) * self._probe.rows,
            )
            shares.append(self._share(packed))
            self._targets.append(packed.targets)
            if start == 0:
                self._figures = dict(packed.figures)
        self._figures["staleness"] = _mean(
            self.version - rollout.first_version for group in groups for rollout in group.rollouts
        )
        return shares

    def _share(self, packed: "PackedGroups") -> "PolicyBatch":
        import torch
        import torch.distributed as dist
        from megatron.core import parallel_state

        rows = len(packed.batch) // (self.layout.dp or 1)
        first = self.engine.data_rank * rows
        mine = packed.batch.rows(first, first + rows)
        if not packed.targets:
            return mine
        if self._reference is not None:
            with self._reference.in_place():
                reference = self._logprobs(mine)
            mine = mine.with_logprobs(reference=reference)
            if self.config.algorithm.kl_in == "reward":
                found = torch.from_numpy(packed.divergences(self._logprobs(mine), reference, first))
                found = found.to(self.engine.device)
                dist.all_reduce(found, group=parallel_state.get_data_parallel_group())
                shaped = packed.with_kl_in_reward(found.cpu().numpy()).batch
                mine = replace(mine, advantages=shaped.advantages[first : first + rows])
        if self.config.minibatches > 1 and self._loss.ratio_base == "proximal":
            mine = mine.with_logprobs(proximal=self._logprobs(mine))
        return mine

    def _logprobs(self, batch: "PolicyBatch") -> Any:
        import numpy as np

        found = self.engine.token_logprobs(batch.split(self.config.micro_batch_size), self._loss.temperature)
        return np.concatenate(found)

    def _train(
        self, batches: "Sequence[Batch]", rate: float, decay: float, approve: Callable[[float, float], bool]
    ) -> "StepResult":
        from tatara.train.measured import StepResult
        from tatara.train.watch.flops import DocumentLoad

        with self._timed("train"):
            if not self._targets[self.step % self.config.minibatches]:
                # Nothing was better than anything else: the policy stays, and has its next version all the same.
                return StepResult(0.0, 0, 0.0, DocumentLoad(), False, {})
            # A policy's loss says nothing of how well it does: only that it is a number is looked at.
            return self.engine.train_step(
                batches,
                rate,
                weight_decay=decay,
                approve=lambda loss, norm: approve(0.0 if loss - loss == 0 else loss, norm),
                policy=self._loss,
            )

    def _after(self, last: bool) -> None:
        if self.step % self.config.minibatches:
            return
        with self._timed("sync"):
            self._publish()
        spans, self._spans = self._spans, []
        self._say("rollout_batch", step=self.step, number=self.version - 1, spans=spans, **self._figures)

    def _publish(self, *, objects: bool = False) -> None:
        """Send the weights to the engines, with what they must compute; collective."""
        self.watch.beat(self.step, f"publishing version {self.version}")
        expected = self._probe.logprobs()
        if self.config.rollout.colocate:
            self._release_memory()
        assert self._publisher is not None
        published = self._publisher.publish(
            self.version, self.task.probe_ids, expected, self._probe.tolerance, objects=objects
        )
        if published is None:
            return
        self._say("published", step=self.step, **vars(published))
        interval = self.config.evaluation.interval
        if interval and (self.version % interval == 0 or self.version == self.config.batches):
            self._buffer.evaluate(self.version)

    def run(self) -> None:
        """Learn to the last step, and stay until the engines have the last weights and answered for them."""
        super().run()
        started = time.monotonic()
        while code := self._agree(self._unanswered()):
            if code == _REPUBLISH:
                self._publish(objects=True)
            self.watch.beat(self.step, f"waiting for the evaluation of version {self.version}")
            if time.monotonic() - started > self.config.batch_timeout:
                raise TrainingError(
                    f"version {self.version} was not evaluated within batch_timeout={self.config.batch_timeout:g} s"
                )
            time.sleep(_END_SECONDS)

    def _release_memory(self) -> None:
        """Give back what torch keeps for the next step: the engine on the same GPU wakes up now."""
        import torch

        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _unanswered(self) -> int:
        """On rank 0, what to do while the last version's evaluation is missing; 0 when it is not."""
        if self.rank != 0 or not self.config.evaluation.interval:
            return _READY
        told = self._buffer.status()
        if self.version in told["evaluations"]:
            return _READY
        return _REPUBLISH if told["objects_wanted"] or told["weights"] is None else _WAIT

    def _written(self, step: int) -> None:
        # The newest may turn out to be damaged; what follows the one before it is kept.
        before, self._safe = self._safe, step // self.config.minibatches
        if self.rank == 0 and before is not None:
            self._buffer.checkpointed(before)

    def _timed(self, what: str) -> "_Span":
        return _Span(self._spans, what)


class _Span:
    """Notes how long a block took."""

    def __init__(self, spans: list[tuple[float, float, str]], what: str) -> None:
        self._spans, self._what = spans, what

    def __enter__(self) -> None:
        self._started = time.time()

    def __exit__(self, *_: Any) -> None:
        self._spans.append((self._started, time.time() - self._started, self._what))


def _mean(values: Any) -> float:
    found = list(values)
    return sum(found) / len(found) if found else 0.0
