"""Arithmetic and memory traffic of one layer on one rank, and how long they take."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from tatara.model.spec import ModelSpec
from tatara.train.layout import ParallelLayout
from tatara.train.planner.assumptions import Assumptions
from tatara.train.planner.hardware import Hardware, Precision

Recompute = Literal["none", "selective", "full"]
Matmul = tuple[float, float, float]
"""Rows, columns, and the dimension that is summed over."""


@dataclass(frozen=True)
class LayerTime:
    """Seconds of one layer and one micro-batch on one rank, computation only."""

    matmul: float
    """Forward."""
    attention: float
    """Forward."""
    elementwise: float
    """Forward."""
    floor: float
    """What launching the kernels takes, forward."""

    def forward(self) -> float:
        """Seconds of the forward pass."""
        return max(self.matmul + self.attention + self.elementwise, self.floor)

    def backward(self, recompute: Recompute) -> float:
        """Seconds of the backward pass: twice the products, 2.5 times the attention, and what is computed again."""
        own = max(2 * self.matmul + 2.5 * self.attention + 2 * self.elementwise, self.floor)
        return own + {"none": 0.0, "selective": self.attention, "full": self.forward()}[recompute]


def layer_time(
    spec: ModelSpec,
    layout: ParallelLayout,
    sequences: int,
    sequence_length: int,
    attended: float,
    hardware: Hardware,
    assumed: Assumptions,
    precision: Precision,
) -> LayerTime:
    """How long a layer computes.

    Args:
        spec: The architecture.
        layout: How ranks share the work.
        sequences: Of a micro-batch.
        sequence_length: Tokens per sequence.
        attended: Mean over tokens of their document's length.
        hardware: What computes it.
        assumed: What is taken for granted.
        precision: Of matrix products; attention stays in bf16.
    """
    tokens = sequences * sequence_length / layout.cp
    heads = spec.head_size * spec.num_attention_heads
    matmul = _seconds(layer_matmuls(spec, layout, tokens), hardware, assumed, precision)
    # Scores and values over half the square: 2 products of 2 operations.
    operations = 2 * attended * heads * tokens / layout.tp
    rate = hardware.bf16 * hardware.reached * assumed.matmul * assumed.attention
    moved = elementwise_bytes(spec, layout, tokens) / (hardware.memory_bandwidth * assumed.memory)
    return LayerTime(matmul, operations / rate, moved, assumed.layer_seconds)


def layer_matmuls(spec: ModelSpec, layout: ParallelLayout, tokens: float) -> list[tuple[float, Matmul]]:
    """Matrix products of a layer's forward pass on one rank: how many of each shape."""
    tp, hidden = layout.tp, spec.hidden_size
    heads = spec.head_size * spec.num_attention_heads
    groups = spec.head_size * spec.num_query_groups
    products = [(1.0, (tokens, (heads + 2 * groups) / tp, hidden)), (1.0, (tokens, hidden, heads / tp))]
    moe = spec.moe
    if moe is None:
        ffn = spec.ffn_hidden_size / tp
        return [*products, (1.0, (tokens, 2 * ffn, hidden)), (1.0, (tokens, hidden, ffn))]
    if moe.shared_expert_ffn_hidden_size:
        ffn = moe.shared_expert_ffn_hidden_size / tp
        products += [(1.0, (tokens, 2 * ffn, hidden)), (1.0, (tokens, hidden, ffn))]
    experts = moe.num_experts / layout.ep
    visits = tokens / tp * moe.top_k / experts
    ffn = moe.expert_ffn_hidden_size
    return [*products, (experts, (visits, 2 * ffn, hidden)), (experts, (visits, hidden, ffn))]


def head_time(
    spec: ModelSpec, layout: ParallelLayout, tokens: float, hardware: Hardware, assumed: Assumptions
) -> float:
    """Seconds of the output projection and the loss, forward; they stay in bf16."""
    rows = spec.padded_vocab_size / layout.tp
    product = _seconds([(1.0, (tokens, rows, spec.hidden_size))], hardware, assumed, "bf16")
    # Logits are read for their maximum, their sum and their gradient, in float32.
    return product + tokens * rows * 3 * 4 / (hardware.memory_bandwidth * assumed.memory)


def elementwise_bytes(spec: ModelSpec, layout: ParallelLayout, tokens: float) -> float:
    """Memory traffic of norms, residual sums, rotation and the gate, forward."""
    width = 4 if spec.dtype == "float32" else 2
    sharded = layout.tp if layout.sequence_parallel else 1
    heads = spec.head_size * (spec.num_attention_heads + spec.num_query_groups)
    # Two norms (read, write) and two sums (read two, write one); rotation; the gate (read two, write one).
    per_token = 10 * spec.hidden_size / sharded + 2 * heads / layout.tp * (1 if spec.qk_norm == "none" else 2)
    if spec.moe is None:
        per_token += 3 * spec.ffn_hidden_size / layout.tp
    else:
        # Tokens are put in the order of the experts and back.
        per_token += spec.moe.top_k * (3 * spec.moe.expert_ffn_hidden_size + 4 * spec.hidden_size) / layout.tp
        per_token += 3 * spec.moe.shared_expert_ffn_hidden_size / layout.tp
    return tokens * per_token * width


def _seconds(
    products: Iterable[tuple[float, Matmul]], hardware: Hardware, assumed: Assumptions, precision: Precision
) -> float:
    """Seconds of matrix products: their arithmetic at the reachable rate, then their traffic.

    Adding the two, not taking the larger, makes small products slow in the way they are: half the rate where both are
    equal (Hockney's n-half).
    """
    rate = hardware.peak(precision) * hardware.reached * assumed.matmul
    bandwidth = hardware.memory_bandwidth * assumed.memory
    total = 0.0
    for count, (rows, columns, summed) in products:
        # FP8: inputs are read in bf16, written and read in FP8.
        read = 2.0 if precision == "bf16" else 4.0
        traffic = read * rows * summed + 2 * columns * summed + 2 * rows * columns
        total += count * (2 * rows * columns * summed / rate + traffic / bandwidth)
    return total
