"""Bytes that one rank needs, by part.

Activations are counted tensor by tensor, as what the backward pass of a layer with flash attention keeps (the way of
arXiv:2205.05198 section 4, for a gated feed-forward and grouped keys and values, in the computing type). How many
micro-batches a pipeline rank holds at a time follows from the schedules of arXiv:2104.04473 section 2.2.
"""

from dataclasses import dataclass

from tatara.model.spec import ModelSpec
from tatara.train.layout import ParallelLayout
from tatara.train.planner.hardware import GIB, Precision
from tatara.train.planner.work import Recompute

GPU_RESERVE = 3.0 * GIB
"""Of the driver, of kernels, and of the buffers of communicators (about 3 GiB per process in long runs of NCCL)."""
FRAGMENTATION = 0.05
"""Share of the rest that the allocator holds but cannot use."""
_LOGIT_BYTES = 8.0
"""Per logit of the last stage's micro-batch: float32 logits and, in their place or beside them, their gradient."""


@dataclass(frozen=True)
class Memory:
    """Bytes of one rank."""

    parameters: float
    gradients: float
    optimizer: float
    activations: float
    ends: float
    """Of embedding and logits: activations of the first or last stage alone."""
    reserve: float
    """Of the driver and of fragmentation."""
    stage: int = 0
    """Which pipeline rank this is."""

    @property
    def total(self) -> float:
        """All of it."""
        return sum(self.parts().values())

    def parts(self) -> dict[str, float]:
        """By name."""
        return {
            name: getattr(self, name)
            for name in ("parameters", "gradients", "optimizer", "activations", "ends", "reserve")
        }


@dataclass(frozen=True)
class Weights:
    """Parameters of one rank of a stage: those shared out over dp x cp, and experts, shared out over the rest."""

    dense: float
    experts: float


def stage_weights(spec: ModelSpec, layout: ParallelLayout, stage: int) -> Weights:
    """Parameters that a rank of a stage holds.

    Norms and routers are whole on every tensor-parallel rank; experts are split by expert parallelism alone.
    """
    layers = layout.layers_per_stage(spec.num_layers)[stage]
    heads = spec.head_size * spec.num_attention_heads
    groups = spec.head_size * spec.num_query_groups
    norms = 2 * spec.hidden_size + {"none": 0, "head": 2 * spec.head_size, "full": heads + groups}[spec.qk_norm]
    split = spec.hidden_size * (2 * heads + 2 * groups)
    whole, experts = float(norms), 0.0
    if spec.moe is None:
        split += 3 * spec.hidden_size * spec.ffn_hidden_size
    else:
        split += 3 * spec.hidden_size * spec.moe.shared_expert_ffn_hidden_size
        whole += spec.hidden_size * spec.moe.num_experts
        experts = 3 * spec.hidden_size * spec.moe.expert_ffn_hidden_size * spec.moe.num_experts / layout.ep
    dense = layers * (split / layout.tp + whole)
    table = spec.padded_vocab_size * spec.hidden_size / layout.tp
    first, last = stage == 0, stage == layout.pp - 1
    # A tied table lies on both ends of a pipeline, but once on a single rank.
    dense += table * ((first + last) if not (spec.tie_word_embeddings and layout.pp == 1) else 1)
    dense += spec.hidden_size if last else 0
    return Weights(dense, layers * experts)


def activation_bytes(spec: ModelSpec, layout: ParallelLayout, tokens: float, recompute: Recompute) -> float:
    """What one layer keeps of one micro-batch for the backward pass.

    Args:
        spec: The architecture.
        layout: How ranks share the work.
        tokens: Of the micro-batch on this rank, after context parallelism.
        recompute: What is computed again instead.
    """
    width = _width(spec)
    sharded = layout.tp if layout.sequence_parallel else 1
    hidden = spec.hidden_size * width
    if recompute == "full":
        return tokens * hidden / sharded
    heads = spec.head_size * spec.num_attention_heads * width
    groups = spec.head_size * spec.num_query_groups * width
    # Inputs of both norms and of both projections into wider spaces; queries, keys, values and what attention gives.
    kept = 4 * hidden / sharded + (heads + 2 * groups) / layout.tp + heads / layout.tp
    if spec.qk_norm != "none":
        kept += (heads + groups) / layout.tp
    if spec.moe is None:
        return tokens * (kept + 3 * spec.ffn_hidden_size * width / layout.tp)
    # Of the experts: tokens as sent and received, the gated pair and its product, for each expert a token visits.
    routed = spec.moe.top_k * (2 * hidden + 3 * spec.moe.expert_ffn_hidden_size * width) / layout.tp
    shared = 3 * spec.moe.shared_expert_ffn_hidden_size * width / layout.tp
    return tokens * (kept + routed + shared)


def layers_in_flight(layout: ParallelLayout, layers: int, micro_batches: int, stage: int) -> float:
    """Layers whose activations a pipeline rank holds at a time, counted once per micro-batch."""
    if layout.pp == 1:
        return layers
    if layout.virtual_stages == 1:
        return layers * min(layout.pp - stage, micro_batches)
    # Warm-up of the interleaved schedule in chunks, plus the one at work.
    chunks = 2 * (layout.pp - stage - 1) + (layout.virtual_stages - 1) * layout.pp + 1
    return layers / layout.virtual_stages * min(chunks, micro_batches * layout.virtual_stages)


def per_rank(
    spec: ModelSpec,
    layout: ParallelLayout,
    *,
    sequence_length: int,
    micro_batch_size: int = 1,
    micro_batches: int = 1,
    recompute: Recompute = "none",
    precision: Precision = "bf16",
    on_gpu: bool = True,
) -> Memory:
    """Bytes of the rank that needs most.

    Args:
        spec: The architecture; its ``dtype`` is that of weights and activations.
        layout: How ranks share the work, with ``dp`` resolved.
        sequence_length: Tokens per sequence.
        micro_batch_size: Sequences per forward pass.
        micro_batches: Forward passes of a rank per step.
        recompute: Activations that are computed again.
        precision: Of matrix products; FP8 keeps copies of the weights.
        on_gpu: Count the reserve of a GPU's driver and allocator.
    """
    found = [
        _of_stage(spec, layout, stage, sequence_length * micro_batch_size / layout.cp, micro_batches, recompute,
                  precision, on_gpu)
        for stage in sorted({0, layout.pp // 2, layout.pp - 1})
    ]  # fmt: skip
    return max(found, key=lambda memory: memory.total)


def _of_stage(
    spec: ModelSpec,
    layout: ParallelLayout,
    stage: int,
    tokens: float,
    micro_batches: int,
    recompute: Recompute,
    precision: Precision,
    on_gpu: bool,
) -> Memory:
    weights, width = stage_weights(spec, layout, stage), _width(spec)
    both = weights.dense + weights.experts
    # Float32 beside the weights: two moments, and the weights themselves where those compute in less.
    state = 8 if width == 4 else 12
    replicas = (layout.dp or 1) * layout.cp
    expert_replicas = max(1, replicas * layout.tp // layout.ep)
    optimizer = state * (weights.dense / replicas + weights.experts / expert_replicas)
    layers = layout.layers_per_stage(spec.num_layers)[stage]
    kept = activation_bytes(spec, layout, tokens, recompute)
    activations = kept * layers_in_flight(layout, layers, micro_batches, stage)
    if recompute == "full":
        # The layer that is being computed again.
        activations += activation_bytes(spec, layout, tokens, "none")
    ends = 0.0
    if stage == layout.pp - 1:
        ends += tokens * spec.padded_vocab_size / layout.tp * _LOGIT_BYTES
        ends += tokens * spec.hidden_size * width
    if stage == 0:
        ends += tokens * spec.hidden_size * width / (layout.tp if layout.sequence_parallel else 1)
    # FP8 keeps each weight twice more, as it is and transposed.
    parameters = both * (width + (2 if precision == "fp8" else 0))
    counted = parameters + 4 * both + optimizer + activations + ends
    reserve = GPU_RESERVE + FRAGMENTATION * counted if on_gpu else 0.0
    return Memory(parameters, 4 * both, optimizer, activations, ends, reserve, stage)


def _width(spec: ModelSpec) -> int:
    """Bytes of a weight or an activation."""
    return 4 if spec.dtype == "float32" else 2
