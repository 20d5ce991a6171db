"""The layers of a model as Megatron's module specifications, and what is done to them once they are built."""

from typing import Any

import torch
from megatron.core import tensor_parallel
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
from megatron.core.models.gpt.gpt_model import GPTModel
from megatron.core.transformer.mlp import MLPSubmodules
from megatron.core.transformer.moe.moe_layer import MoELayer
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules, get_num_layers_to_build
from megatron.core.transformer.transformer_config import TransformerConfig

from tatara.model.attention import DotProductAttention
from tatara.model.compute import ComputeSettings
from tatara.model.norms import AllHeadsRMSNorm, RMSNorm
from tatara.model.spec import ModelSpec


def block_spec(
    spec: ModelSpec, config: TransformerConfig, compute: ComputeSettings, stage: int | None
) -> TransformerBlockSubmodules:
    """The layers of one model chunk.

    Args:
        spec: The architecture.
        config: From `transformer_config`.
        compute: Kernels.
        stage: Virtual pipeline stage; null without interleaving.
    """
    layer = get_gpt_layer_local_spec(
        normalization="RMSNorm",
        num_experts=None if spec.moe is None else spec.moe.num_experts,
        qk_layernorm=spec.qk_norm != "none",
    )
    parts = layer.submodules
    parts.input_layernorm = RMSNorm
    parts.pre_mlp_layernorm = RMSNorm
    attention = parts.self_attention.submodules
    attention.core_attention = ModuleSpec(
        module=DotProductAttention, params={"kernel": compute.attention, "exchange": compute.context_exchange}
    )
    if spec.qk_norm == "head":
        attention.q_layernorm = attention.k_layernorm = RMSNorm
    elif spec.qk_norm == "full":
        attention.q_layernorm = ModuleSpec(module=AllHeadsRMSNorm, params={"heads": spec.num_attention_heads})
        attention.k_layernorm = ModuleSpec(module=AllHeadsRMSNorm, params={"heads": spec.num_query_groups})
    if config.fp8 is not None:
        _use_transformer_engine(layer)
    layers = get_num_layers_to_build(config, vp_stage=stage)
    return TransformerBlockSubmodules(layer_specs=[layer] * layers, layer_norm=RMSNorm)


def compile_layers(model: GPTModel) -> None:
    """Put every transformer layer through `torch.compile`; names of parameters stay.

    The experts, whose shapes follow from what the router chose, run as they are, and so does the core attention, which
    looks at document lengths.
    """
    # Megatron warns of an environment variable and of row-parallel layers that do not pass their group on. A warning,
    # whether or not it is shown, cuts the graph in two.
    tensor_parallel.layers.linear_with_grad_accumulation_and_async_allreduce.warned = True
    for module in model.decoder.modules():
        if isinstance(module, tensor_parallel.RowParallelLinear):
            _pass_group(module)
    for layer in model.decoder.layers:
        if isinstance(layer.mlp, MoELayer):
            layer.mlp.forward = torch.compiler.disable(layer.mlp.forward)
        attention = layer.self_attention.core_attention
        attention.forward = torch.compiler.disable(attention.forward)
        layer.compile()


def _pass_group(linear: tensor_parallel.RowParallelLinear) -> None:
    multiply = linear._forward_impl

    def multiply_in_group(*arguments: Any, **options: Any) -> Any:
        return multiply(*arguments, **options | {"tp_group": linear.tp_group})

    linear._forward_impl = multiply_in_group


def _use_transformer_engine(layer: ModuleSpec) -> None:
    """Replace the matrix products of a layer by those that know FP8; parameters keep their names."""
    from megatron.core.extensions.transformer_engine import TEColumnParallelLinear, TERowParallelLinear

    attention = layer.submodules.self_attention.submodules
    attention.linear_qkv, attention.linear_proj = TEColumnParallelLinear, TERowParallelLinear
    feed_forward = layer.submodules.mlp.submodules
    dense = [feed_forward]
    if not isinstance(feed_forward, MLPSubmodules):
        dense = [feed_forward.experts.submodules, feed_forward.shared_experts.submodules]
    for submodules in dense:
        submodules.linear_fc1, submodules.linear_fc2 = TEColumnParallelLinear, TERowParallelLinear
