"""Loops of published models on published accelerators: what no run has measured yet, from arithmetic that is stated.

An engine's step reads the weights and each response's cache once, and computes two operations per weight and token; the
learner computes what `ModelSpec.flops_per_token` counts at a share of the peak; weights cross a network card once.
"""

import math
from dataclasses import dataclass, field

from tatara.errors import LayoutError
from tatara.model.spec import ModelSpec
from tatara.rl.simulation.loop import EngineCurve, InFlight, LearnerCurve, Lengths, Loop
from tatara.train.planner.assumptions import Assumptions
from tatara.train.planner.hardware import Hardware

_WIDTH = 2
"""Bytes of a weight or a cached number: bf16."""


@dataclass(frozen=True)
class LoopAssumptions:
    """Shares and times that no data sheet holds, besides those of the layout planner."""

    planner: Assumptions = field(default_factory=Assumptions)
    """Shares of memory, links and matrix products that are reached; seconds of a small collective."""
    step_seconds: float = 2e-3
    """Of an engine's step: scheduling, sampling and launching, however many responses share it."""
    learner_mfu: float = 0.35
    """Of the peak that the learner reaches. Llama 3 reports 0.38 to 0.43 in pretraining (arXiv:2407.21783, table 4);
    responses of unequal length pack and balance worse."""
    learner_seconds: float = 0.5
    """Of a batch: packing, the optimizer's update, exchange that nothing hides."""
    learner_bytes: float = 18.0
    """Per parameter: bf16 weight, float32 gradient, float32 copy and two moments."""
    learner_memory: float = 0.7
    """Of a device's memory that these may fill; activations take the rest."""
    engine_memory: float = 0.9
    """Of a device's memory for weights and cache."""
    most_running: int = 256
    """Responses of an engine at a time, though the cache would hold more."""

    def lines(self) -> list[str]:
        """Each as a sentence."""
        plan = self.planner
        return [
            f"an engine's step reads all weights and the caches of its responses at {plan.memory:.0%} of the memory "
            f"bandwidth, computes at {plan.matmul:.0%} of the best matrix product, and takes "
            f"{self.step_seconds * 1e3:.0f} ms besides; with tensor parallelism two collectives per layer of "
            f"{plan.latency * 1e6:.0f} us",
            f"bf16 weights and cache in {self.engine_memory:.0%} of the memory; {self.most_running} responses per "
            "engine at most; prompts are cached by group, their computation is not counted",
            f"the learner reaches {self.learner_mfu:.0%} of the bf16 peak at any size, {self.learner_seconds} s per "
            f"batch besides; {self.learner_bytes:.0f} bytes per parameter in {self.learner_memory:.0%} of its memory",
            f"new weights pass each network card once ({plan.links:.0%} of its rate; within a node the fast links), "
            "learner and engines stop meanwhile",
            "lengths are lognormal and independent of each other; nothing fails, nothing is evaluated",
        ]


@dataclass(frozen=True)
class Workload:
    """What is trained on what, whatever the number of devices.

    Attributes:
        spec: The architecture.
        hardware: Of each device.
        lengths: Of responses.
        prompt_tokens: Of prompts.
        group_size: Rollouts of a prompt.
        groups_per_device: Prompts in a batch, per device of the cluster.
        tp: Devices of an engine.
        reward: Seconds to score a rollout, beside everything else.
        in_flight: What becomes of responses when weights change.
        colocated: Learner and engines on the same devices.
        assumed: What is taken for granted.
    """

    spec: ModelSpec
    hardware: Hardware
    lengths: Lengths
    prompt_tokens: float = 256.0
    group_size: int = 16
    groups_per_device: float = 1.0
    tp: int = 1
    reward: float = 0.1
    in_flight: InFlight = "continue"
    colocated: bool = False
    assumed: LoopAssumptions = field(default_factory=LoopAssumptions)

    @property
    def smallest_learner(self) -> int:
        """Devices that hold what the learner must hold, a power of two."""
        size = self.spec.parameter_count() * self.assumed.learner_bytes
        return 2 ** math.ceil(math.log2(max(1.0, size / (self.hardware.memory * self.assumed.learner_memory))))

    def engine_curve(self) -> EngineCurve:
        """How fast an engine of ``tp`` devices is."""
        spec, hardware, plan = self.spec, self.hardware, self.assumed.planner
        bandwidth = hardware.memory_bandwidth * plan.memory * self.tp
        rate = hardware.bf16 * hardware.reached * plan.matmul * self.tp
        start = _WIDTH * spec.parameter_count() / bandwidth + self.assumed.step_seconds
        if self.tp > 1:
            start += 2 * spec.num_layers * plan.latency
        each = self._context() * self._cache_bytes() / bandwidth + 2 * spec.parameter_count(active=True) / rate
        return EngineCurve(start, each)

    def concurrency(self) -> int:
        """Responses that an engine's memory holds.

        Raises:
            LayoutError: Not even one.
        """
        memory = self.hardware.memory * self.assumed.engine_memory * self.tp
        free = memory - _WIDTH * self.spec.parameter_count()
        count = int(free / (self._cache_bytes() * self._context()))
        if count < 1:
            raise LayoutError(
                f"an engine of {self.tp} {self.hardware.name} has no memory left beside the weights: raise --tp"
            )
        return min(count, self.assumed.most_running)

    def learner_curve(self, devices: int) -> LearnerCurve:
        """How long that many devices train."""
        # A token attends to what the batch's mean token does: lengths count by their square.
        flops = self.spec.flops_per_token(self.prompt_tokens + self._length_of_a_token())
        rate = devices * self.hardware.bf16 * self.assumed.learner_mfu
        return LearnerCurve(self.assumed.learner_seconds, flops / rate)

    def sync_seconds(self, devices: int) -> float:
        """Of a broadcast of all weights on a cluster of that many devices."""
        link = self.hardware.fast if devices <= self.hardware.node else self.hardware.slow
        return _WIDTH * self.spec.parameter_count() / self.tp / (link * self.assumed.planner.links)

    def loop(self, rollout_devices: int, learner_devices: int, staleness: int, groups: int | None = None) -> Loop:
        """The loop on a split of the devices; colocated, both are all of them."""
        devices = rollout_devices if self.colocated else rollout_devices + learner_devices
        sync = self.sync_seconds(devices)
        return Loop(
            engines=rollout_devices // self.tp,
            concurrency=self.concurrency(),
            engine=self.engine_curve(),
            lengths=self.lengths,
            groups_per_batch=groups or max(1, round(devices * self.groups_per_device)),
            group_size=self.group_size,
            staleness=staleness,
            learner=self.learner_curve(learner_devices),
            publish=sync,
            load=sync,
            in_flight=self.in_flight,
            reward=self.reward,
            prompt_tokens=self.prompt_tokens,
            rollout_devices=float(rollout_devices),
            learner_devices=float(learner_devices),
            colocated=self.colocated,
        )

    def _cache_bytes(self) -> float:
        """Of a token in the cache."""
        return 2 * _WIDTH * self.spec.num_layers * self.spec.num_query_groups * self.spec.head_size

    def _length_of_a_token(self) -> float:
        """Mean over tokens of the length of the response they are in."""
        if self.lengths.recorded:
            return sum(n * n for n in self.lengths.recorded) / sum(self.lengths.recorded)
        return min(self.lengths.mean * (1 + self.lengths.spread**2), float(self.lengths.longest))

    def _context(self) -> float:
        """Tokens in the cache of a running response, mean over time."""
        return self.prompt_tokens + self._length_of_a_token() / 2
