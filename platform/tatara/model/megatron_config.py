"""Megatron's configuration of a `ModelSpec` in a layout."""

import importlib.util
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from megatron.core.distributed import finalize_model_grads
from megatron.core.transformer.transformer_config import TransformerConfig

from tatara.errors import ConfigError, LayoutError
from tatara.model import rope
from tatara.model.compute import ComputeSettings
from tatara.model.spec import MixtureOfExperts, ModelSpec


class Layout(Protocol):
    """The sizes that decide which part of the model a rank holds."""

    @property
    def tp(self) -> int:
        """Tensor-parallel size."""

    @property
    def pp(self) -> int:
        """Pipeline-parallel size."""

    @property
    def cp(self) -> int:
        """Context-parallel size."""

    @property
    def ep(self) -> int:
        """Expert-parallel size."""

    @property
    def virtual_stages(self) -> int:
        """Model chunks per pipeline rank."""

    @property
    def first_stage_layers(self) -> int | None:
        """Layers of the first pipeline rank; null means as many as the others."""

    @property
    def last_stage_layers(self) -> int | None:
        """Layers of the last pipeline rank; null means as many as the others."""

    @property
    def sequence_parallel(self) -> bool:
        """Whether activations between tensor-parallel regions are split along the sequence."""


def transformer_config(
    spec: ModelSpec,
    layout: Layout,
    compute: ComputeSettings = ComputeSettings(),  # noqa: B008 - frozen
    **overrides: Any,
) -> TransformerConfig:
    """Megatron's configuration of a model in a layout.

    Args:
        spec: The architecture.
        layout: Parallel sizes; Megatron's process groups must have been made with the same, and with
            `expert_tensor_parallel_size=1`.
        compute: Recomputation and precision of matrix products; kernels are `build_model`'s.
        overrides: Further fields of `TransformerConfig`.

    Raises:
        ConfigError: FP8 is asked for on a machine that cannot.
        LayoutError: Tensor parallelism does not divide the padded vocabulary, two pipeline stages have other layers
            than the model, or the layout does not fit a mixture of experts.
    """
    _check(spec, layout)
    dtype = getattr(torch, spec.dtype)
    interleaved = layout.virtual_stages > 1
    on_gpu = torch.cuda.is_available()
    factor = rope.attention_factor(spec)
    # Where there is no stage in between, Megatron divides by their number.
    ends = (layout.first_stage_layers, layout.last_stage_layers)
    # An end that is one layer short of whole chunks: what it holds besides takes the place of a layer.
    counted = [interleaved and end is not None and end % layout.virtual_stages != 0 for end in ends]
    implied = layout.pp == 2 and ends[0] is not None and not counted[0]
    fields: dict[str, Any] = {
        "num_layers": spec.num_layers,
        "hidden_size": spec.hidden_size,
        "num_attention_heads": spec.num_attention_heads,
        "num_query_groups": spec.num_query_groups,
        "kv_channels": spec.head_size,
        "ffn_hidden_size": spec.ffn_hidden_size,
        "softmax_scale": None if factor == 1.0 else factor**2 / spec.head_size**0.5,
        # Norms over all heads are not replicated over tensor parallelism: Megatron must not sum their gradients.
        "qk_layernorm": spec.qk_norm == "head",
        "gated_linear_unit": True,
        "activation_func": F.silu,
        "add_bias_linear": False,
        "normalization": "RMSNorm",
        "layernorm_epsilon": spec.rms_norm_eps,
        "attention_dropout": 0.0,
        "hidden_dropout": 0.0,
        "params_dtype": dtype,
        "pipeline_dtype": dtype,
        "bf16": dtype is torch.bfloat16,
        "tensor_model_parallel_size": layout.tp,
        "pipeline_model_parallel_size": layout.pp,
        "virtual_pipeline_model_parallel_size": layout.virtual_stages if interleaved else None,
        "num_layers_in_first_pipeline_stage": None if counted[0] else layout.first_stage_layers,
        "num_layers_in_last_pipeline_stage": None if implied or counted[1] else layout.last_stage_layers,
        "account_for_embedding_in_pipeline_split": counted[0],
        "account_for_loss_in_pipeline_split": counted[1],
        "context_parallel_size": layout.cp,
        "expert_model_parallel_size": layout.ep,
        "expert_tensor_parallel_size": 1,
        "sequence_parallel": layout.sequence_parallel,
        # Interleaved stages over gloo read each other's messages when they are batched, without an error.
        "batch_p2p_comm": on_gpu or not interleaved,
        # Summed token losses and counts; must be known before DistributedDataParallel wraps the model, or context
        # parallelism halves the gradients.
        "calculate_per_token_loss": True,
        "finalize_model_grads_func": finalize_model_grads,
        # `initial.initialise` fills every parameter. Megatron's own initialisation still runs, with nothing to do,
        # because it also marks the parameters that tensor parallelism splits.
        "init_method": _leave,
        "output_layer_init_method": _leave,
        "embedding_init_method": _leave,
        "use_cpu_initialization": not on_gpu,
        # These fusions need Apex or compile kernels at the first step.
        "bias_activation_fusion": False,
        "bias_dropout_fusion": False,
        "masked_softmax_fusion": False,
        "gradient_accumulation_fusion": False,
        "apply_rope_fusion": False,
    }
    if spec.moe is not None:
        fields |= _experts(spec.moe, layout)
    return TransformerConfig(**(fields | _compute(compute) | overrides))


def _check(spec: ModelSpec, layout: Layout) -> None:
    if spec.padded_vocab_size % layout.tp:
        raise LayoutError(f"tp {layout.tp} must divide the padded vocabulary of {spec.padded_vocab_size}")
    first, last = layout.first_stage_layers, layout.last_stage_layers
    if layout.pp == 2 and first is not None and last is not None and first + last != spec.num_layers:
        raise LayoutError(
            f"first_stage_layers {first} and last_stage_layers {last} must add up to the {spec.num_layers} layers"
        )
    if spec.moe is None:
        if layout.ep > 1:
            raise LayoutError(f"ep {layout.ep} needs a mixture-of-experts model, but this one is dense")
        return
    if spec.moe.num_experts % layout.ep:
        raise LayoutError(f"ep {layout.ep} must divide the {spec.moe.num_experts} experts")
    if layout.tp > 1 and not layout.sequence_parallel:
        raise LayoutError(f"a mixture of experts with tp {layout.tp} needs sequence_parallel")


def _experts(moe: MixtureOfExperts, layout: Layout) -> dict[str, Any]:
    """Fields of a mixture of experts: nothing is dropped, and the router works in float32.

    Megatron takes the softmax over all experts before the choice (`moe_router_pre_softmax`), or over the chosen ones
    after it. The latter is the same as normalising the chosen weights to sum to one.
    """
    # Megatron weighs the losses of a micro-batch with the tokens of one tensor- and context-parallel rank, which under
    # sequence and context parallelism is only a part of them, and expects the sum over ranks.
    parts = layout.tp * layout.cp
    auxiliary = moe.balancing == "auxiliary" and moe.auxiliary_coefficient > 0
    return {
        "num_moe_experts": moe.num_experts,
        "moe_router_topk": moe.top_k,
        # Equal widths keep Megatron from copying its configuration.
        "ffn_hidden_size": moe.expert_ffn_hidden_size,
        "moe_ffn_hidden_size": moe.expert_ffn_hidden_size,
        "moe_shared_expert_intermediate_size": moe.shared_expert_ffn_hidden_size or None,
        "moe_router_score_function": moe.score,
        "moe_router_pre_softmax": moe.score == "softmax" and not moe.normalize_top_k,
        "moe_router_topk_scaling_factor": None if moe.scaling_factor == 1.0 else moe.scaling_factor,
        "moe_router_load_balancing_type": "aux_loss" if auxiliary else "none",
        "moe_aux_loss_coeff": moe.auxiliary_coefficient * parts if auxiliary else 0.0,
        "moe_z_loss_coeff": moe.z_loss_coefficient * parts or None,
        "moe_router_enable_expert_bias": moe.balancing == "bias",
        "moe_router_bias_update_rate": moe.bias_update_rate,
        "moe_router_dtype": "fp32",
        "moe_token_dispatcher_type": "alltoall",
        "moe_grouped_gemm": False,
    }


def _compute(compute: ComputeSettings) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    if compute.recompute == "selective":
        fields |= {"recompute_granularity": "selective", "recompute_modules": ["core_attn"]}
    elif compute.recompute == "full":
        method = "uniform" if compute.recompute_layers is None else "block"
        layers = compute.recompute_layers or 1
        fields |= {"recompute_granularity": "full", "recompute_method": method, "recompute_num_layers": layers}
    if compute.fp8 != "none":
        _check_fp8(compute.fp8)
        # Gradients need the range of e5m2, unless each block has a scale of its own.
        wide = compute.fp8 in ("tensorwise", "delayed")
        fields |= {"fp8": "hybrid" if wide else "e4m3", "fp8_recipe": compute.fp8}
    return fields


def _check_fp8(recipe: str) -> None:
    if not torch.cuda.is_available():
        raise ConfigError(f"fp8: {recipe} needs a GPU with FP8, but this machine has none: set fp8: none")
    if importlib.util.find_spec("transformer_engine") is None:
        raise ConfigError(f"fp8: {recipe} needs Transformer Engine, which is not installed: set fp8: none")


def _leave(weight: torch.Tensor) -> torch.Tensor:
    return weight
