"""How long a step takes in a layout, and where the time goes."""

from dataclasses import dataclass

from tatara.model.spec import ModelSpec
from tatara.train.layout import ParallelLayout
from tatara.train.planner.assumptions import Assumptions
from tatara.train.planner.communication import (
    Exchange,
    LayerExchange,
    gradient_reduce,
    layer_exchange,
    stage_send,
    weight_gather,
)
from tatara.train.planner.hardware import Hardware, Precision
from tatara.train.planner.memory import Memory, Weights, per_rank, stage_weights
from tatara.train.planner.work import LayerTime, Recompute, head_time, layer_time

_OPTIMIZER_TRAFFIC = 34.0
"""Bytes that an Adam step moves per parameter: gradient, weight and two moments read and written in float32, the
weight in bf16."""


@dataclass(frozen=True)
class Workload:
    """What is trained on what.

    Attributes:
        spec: The architecture.
        sequence_length: Tokens per sequence.
        global_batch_size: Sequences per step.
        hardware: Each device.
        precision: Of matrix products.
        document_length: Mean over tokens of the length of their document; None where one fills each sequence.
    """

    spec: ModelSpec
    sequence_length: int
    global_batch_size: int
    hardware: Hardware
    precision: Precision = "bf16"
    document_length: float | None = None

    @property
    def tokens(self) -> int:
        """Per step."""
        return self.sequence_length * self.global_batch_size

    @property
    def attended(self) -> float:
        """Mean over tokens of how many attend to each other."""
        return min(self.document_length or self.sequence_length, self.sequence_length)

    @property
    def flops(self) -> float:
        """Of the model, per step."""
        return self.spec.flops_per_token(self.attended) * self.tokens


@dataclass(frozen=True)
class Choice:
    """A layout with what else is chosen per run."""

    layout: ParallelLayout
    micro_batch_size: int = 1
    recompute: Recompute = "none"


@dataclass(frozen=True)
class Estimate:
    """A step in a layout. Seconds are of one step and one rank.

    Attributes:
        choice: The layout.
        memory: Of the rank that needs most.
        micro_batches: Per rank and step.
        bubble: Time that pipeline ranks wait while it fills and drains, over the time that they work.
        seconds: Where a step's time goes, by name; adds up to the step.
        exchanged: What a rank exchanges per step, by dimension, hidden or not.
        step_seconds: Of a step.
        devices: In the layout.
        flops_per_device: Model FLOP/s.
        mfu: Over the published dense peak.
        tokens_per_second: Of all devices.
    """

    choice: Choice
    memory: Memory
    micro_batches: int
    bubble: float
    seconds: dict[str, float]
    exchanged: dict[str, Exchange]
    step_seconds: float
    devices: int
    flops_per_device: float
    mfu: float
    tokens_per_second: float


@dataclass(frozen=True)
class _Stage:
    """Seconds of a pipeline stage for one micro-batch, by name."""

    compute: float
    recompute: float
    tensor: float
    context: float
    expert: float
    forward_share: float

    @property
    def total(self) -> float:
        return self.compute + self.recompute + self.tensor + self.context + self.expert


def estimate(
    work: Workload, choice: Choice, assumed: Assumptions | None = None, memory: Memory | None = None
) -> Estimate:
    """Predict a step.

    Args:
        work: What is trained on what.
        choice: A layout with ``dp`` resolved. Whether it divides model and batch is not checked here.
        assumed: What is taken for granted.
        memory: Of the rank that needs most, where it is known already.
    """
    assumed = assumed or Assumptions()
    layout, spec, hardware = choice.layout, work.spec, work.hardware
    dp = layout.dp or 1
    micro_batches = work.global_batch_size // (dp * choice.micro_batch_size)
    tokens = choice.micro_batch_size * work.sequence_length / layout.cp
    exchange = layer_exchange(spec, layout, tokens, hardware, assumed)
    layer = layer_time(
        spec, layout, choice.micro_batch_size, work.sequence_length, work.attended, hardware, assumed, work.precision
    )
    stage = _slowest_stage(work, choice, layer, exchange, tokens, assumed)
    bubble = (layout.pp - 1) / (layout.virtual_stages * micro_batches)
    send = stage_send(spec, layout, tokens, hardware, assumed)
    weights = stage_weights(spec, layout, 0)
    data = _data_parallel(work, choice, stage, weights, assumed)
    seconds = {
        "compute": stage.compute * micro_batches,
        "recompute": stage.recompute * micro_batches,
        "tensor": stage.tensor * micro_batches,
        "context": stage.context * micro_batches,
        "expert": stage.expert * micro_batches,
        "pipeline": _exposed_sends(layout, micro_batches, send),
        "bubble": bubble * stage.total * micro_batches,
        "data": data,
        "optimizer": _optimizer_seconds(work, layout, weights, assumed),
    }
    step = sum(seconds.values())
    devices = layout.model_ranks * dp
    rate = work.flops / (step * devices)
    return Estimate(
        choice=choice,
        memory=memory
        or per_rank(
            spec,
            layout,
            sequence_length=work.sequence_length,
            micro_batch_size=choice.micro_batch_size,
            micro_batches=micro_batches,
            recompute=choice.recompute,
            precision=work.precision,
        ),
        micro_batches=micro_batches,
        bubble=bubble,
        seconds=seconds,
        exchanged=_exchanged(work, choice, exchange, send, micro_batches, weights, assumed),
        step_seconds=step,
        devices=devices,
        flops_per_device=rate,
        mfu=rate / hardware.peak(work.precision),
        tokens_per_second=work.tokens / step,
    )


def _slowest_stage(
    work: Workload, choice: Choice, layer: LayerTime, exchange: LayerExchange, tokens: float, assumed: Assumptions
) -> _Stage:
    layout = choice.layout
    layers = layout.layers_per_stage(work.spec.num_layers)
    forward, backward = layer.forward(), layer.backward("none")
    again = layer.backward(choice.recompute) - backward
    repeated = 1 if choice.recompute == "full" else 0
    tensor, context, expert = (
        share * (there.seconds * (1 + repeated) + back.seconds)
        for share, (there, back) in (
            (assumed.tensor_exposed, exchange.tensor),
            (assumed.context_exposed, exchange.context),
            (assumed.expert_exposed, exchange.expert),
        )
    )
    head = 3 * head_time(work.spec, layout, tokens, work.hardware, assumed)
    each = [
        _Stage(
            compute=count * (forward + backward) + (head if stage == layout.pp - 1 else 0.0),
            recompute=count * again,
            tensor=count * tensor,
            context=count * context,
            expert=count * expert,
            forward_share=forward / (forward + backward),
        )
        for stage, count in enumerate(layers)
        if stage in (0, layout.pp // 2, layout.pp - 1)
    ]
    return max(each, key=lambda stage: stage.total)


def _exposed_sends(layout: ParallelLayout, micro_batches: int, send: Exchange) -> float:
    """Seconds that a rank waits for its neighbours' activations and gradients."""
    if layout.virtual_stages == 1:
        # A send and a receive each way and micro-batch, none of it beside computation (Megatron's 1F1B).
        return 2 * send.seconds * (micro_batches + layout.pp - 1)
    return 2 * send.seconds * (layout.pp - 1)


def _data_parallel(work: Workload, choice: Choice, stage: _Stage, weights: Weights, assumed: Assumptions) -> float:
    """Seconds of the exchange between replicas that neither the last backward nor the first forward pass hides."""
    width = 4 if work.spec.dtype == "float32" else 2
    reduce = gradient_reduce(choice.layout, weights, work.hardware, assumed).seconds
    gather = weight_gather(choice.layout, weights, width, work.hardware, assumed).seconds
    # The last bucket of gradients and the first of weights have nothing beside them: a chunk's worth.
    chunk = 1 / max(choice.layout.virtual_stages, 4)
    forward = stage.forward_share * stage.total
    hidden_reduce = min(reduce * (1 - chunk), stage.total - forward)
    hidden_gather = min(gather * (1 - chunk), forward)
    return reduce - hidden_reduce + gather - hidden_gather


def _optimizer_seconds(work: Workload, layout: ParallelLayout, weights: Weights, assumed: Assumptions) -> float:
    replicas = (layout.dp or 1) * layout.cp
    own = weights.dense / replicas + weights.experts / max(1, replicas * layout.tp // layout.ep)
    # The norm of the gradient reads all of it.
    moved = own * (_OPTIMIZER_TRAFFIC + 4)
    return moved / (work.hardware.memory_bandwidth * assumed.memory)


def _exchanged(
    work: Workload,
    choice: Choice,
    exchange: LayerExchange,
    send: Exchange,
    micro_batches: int,
    weights: Weights,
    assumed: Assumptions,
) -> dict[str, Exchange]:
    """Per step and rank, of a middle stage."""
    layout = choice.layout
    layers = max(layout.layers_per_stage(work.spec.num_layers))
    repeated = 1 if choice.recompute == "full" else 0
    width = 4 if work.spec.dtype == "float32" else 2
    sums = {
        name: (there * (1 + repeated) + back) * (layers * micro_batches)
        for name, (there, back) in (
            ("tensor", exchange.tensor),
            ("context", exchange.context),
            ("expert", exchange.expert),
        )
    }
    sums["pipeline"] = send * (2 * micro_batches * layout.virtual_stages)
    reduce = gradient_reduce(layout, weights, work.hardware, assumed)
    sums["data"] = reduce + weight_gather(layout, weights, width, work.hardware, assumed)
    return sums
