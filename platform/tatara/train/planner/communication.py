"""What ranks exchange, over which network, and how long that takes.

Ranks are laid out as Megatron lays them out: neighbours share tensors, then context, then data (and experts), and
pipeline stages are farthest apart. Collectives are rings: of ``n`` ranks each sends and receives ``(n - 1) / n`` of the
whole.
"""

from dataclasses import dataclass

from tatara.model.spec import ModelSpec
from tatara.train.layout import ParallelLayout
from tatara.train.planner.assumptions import Assumptions
from tatara.train.planner.hardware import Hardware
from tatara.train.planner.memory import Weights


@dataclass(frozen=True)
class Exchange:
    """Bytes that a rank sends, and seconds that it takes when nothing else happens."""

    bytes: float = 0.0
    seconds: float = 0.0

    def __mul__(self, times: float) -> "Exchange":
        return Exchange(self.bytes * times, self.seconds * times)

    def __add__(self, other: "Exchange") -> "Exchange":
        return Exchange(self.bytes + other.bytes, self.seconds + other.seconds)


@dataclass(frozen=True)
class LayerExchange:
    """Of one layer and one micro-batch, forward and backward."""

    tensor: tuple[Exchange, Exchange]
    context: tuple[Exchange, Exchange]
    expert: tuple[Exchange, Exchange]


def bandwidth(ranks: int, inner: int, hardware: Hardware) -> float:
    """Bytes/s of a rank in a ring.

    Args:
        ranks: In the ring.
        inner: Ranks between neighbours of the ring: the product of the dimensions inside of this one.
        hardware: The machines.
    """
    if ranks * inner <= hardware.node:
        return hardware.fast
    # Members of the ring on one machine share the way out: each brings its network card.
    together = max(1, min(ranks, hardware.node // inner))
    return min(hardware.fast, hardware.slow * together)


def collective(ranks: int, inner: int, whole: float, hardware: Hardware, assumed: Assumptions) -> Exchange:
    """One all-gather or reduce-scatter of ``whole`` bytes."""
    if ranks == 1:
        return Exchange()
    sent = whole * (ranks - 1) / ranks
    return Exchange(sent, max(sent / (bandwidth(ranks, inner, hardware) * assumed.links), assumed.latency))


def layer_exchange(
    spec: ModelSpec, layout: ParallelLayout, tokens: float, hardware: Hardware, assumed: Assumptions
) -> LayerExchange:
    """What a layer exchanges for a micro-batch of so many tokens per rank."""
    width = 4 if spec.dtype == "float32" else 2
    hidden = tokens * spec.hidden_size * width
    # With sequence parallelism an all-gather before and a reduce-scatter after attention and feed-forward, both ways;
    # the inputs, kept in shards, are gathered once more for the gradient of the weights. Without: two all-reduces.
    once = collective(layout.tp, 1, hidden, hardware, assumed)
    dense = spec.moe is None or bool(spec.moe.shared_expert_ffn_hidden_size)
    blocks = 2 if dense else 1
    forward, backward = 2 * blocks, (3 if layout.sequence_parallel else 2) * blocks
    # Keys and values are gathered forward; again backward, where their gradients are reduced.
    keys = 2 * tokens * layout.cp * spec.head_size * max(1, spec.num_query_groups / layout.tp) * width
    gathered = collective(layout.cp, layout.tp, keys, hardware, assumed)
    routed = _all_to_all(spec, layout, tokens * width, hardware, assumed)
    return LayerExchange((once * forward, once * backward), (gathered, gathered * 2), (routed * 2, routed * 2))


def _all_to_all(
    spec: ModelSpec, layout: ParallelLayout, token_bytes: float, hardware: Hardware, assumed: Assumptions
) -> Exchange:
    """Tokens to their experts, or back: each of a rank's share of tokens goes to ``top_k`` places."""
    if spec.moe is None or layout.ep == 1:
        return Exchange()
    sent = token_bytes / layout.tp * spec.moe.top_k * spec.hidden_size * (layout.ep - 1) / layout.ep
    away = max(0.0, 1 - hardware.node / layout.ep)
    seconds = sent * max((1 - away) / hardware.fast, away / hardware.slow) / assumed.links
    return Exchange(sent, max(seconds, assumed.latency))


def stage_send(
    spec: ModelSpec, layout: ParallelLayout, tokens: float, hardware: Hardware, assumed: Assumptions
) -> Exchange:
    """One micro-batch's activations to the next pipeline stage; gradients are as many the other way."""
    if layout.pp == 1:
        return Exchange()
    width = 4 if spec.dtype == "float32" else 2
    sent = tokens * spec.hidden_size * width / (layout.tp if layout.sequence_parallel else 1)
    everyone = layout.model_ranks * (layout.dp or 1)
    rate = hardware.fast if everyone <= hardware.node else hardware.slow
    return Exchange(sent, max(sent / (rate * assumed.links), assumed.latency))


def gradient_reduce(layout: ParallelLayout, weights: Weights, hardware: Hardware, assumed: Assumptions) -> Exchange:
    """Reduce-scatter of float32 gradients over the replicas, once per step."""
    return _over_replicas(layout, weights, 4, hardware, assumed)


def weight_gather(
    layout: ParallelLayout, weights: Weights, width: int, hardware: Hardware, assumed: Assumptions
) -> Exchange:
    """All-gather of updated weights over the replicas, once per step."""
    return _over_replicas(layout, weights, width, hardware, assumed)


def _over_replicas(
    layout: ParallelLayout, weights: Weights, width: int, hardware: Hardware, assumed: Assumptions
) -> Exchange:
    replicas = (layout.dp or 1) * layout.cp
    dense = collective(replicas, layout.tp, weights.dense * width, hardware, assumed)
    others = max(1, replicas * layout.tp // layout.ep)
    return dense + collective(others, layout.ep, weights.experts * width, hardware, assumed)
