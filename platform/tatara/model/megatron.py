"""Builds the Megatron-core model of a `ModelSpec`, with weights that do not depend on the layout.

Conventions of the forward pass, `model(input_ids, position_ids, attention_mask, labels=...)`:

- `input_ids`, `position_ids`, `labels`: `[micro_batch, sequence / cp]`, see `attention.context_slice`;
- `attention_mask`: from `attention.document_mask`, once per micro-batch;
- with `labels` the last stage returns the loss of each token `[micro_batch, sequence / cp]`, otherwise the logits
  `[micro_batch, sequence / cp, padded vocabulary / tp]`; `megatron_head.sampled_at` turns the losses into negative
  log-probabilities and entropies at a temperature.

Rotary positions come from the index in the row; Megatron does not read `position_ids` for them. Attention scores only
depend on differences of positions, and documents do not see each other, so a document that starts in the middle of a
row gets the scores it would get at the start of one. Positions never exceed the sequence length.

What balances a mixture of experts:

- The auxiliary loss and the z-loss join the gradient in the backward pass, and never the loss that is returned. They
  are those of each micro-batch (all its rows, over tensor and context parallelism), weighted by its tokens. So they are
  equal in every layout, as long as the same rows make up a micro-batch: with another `micro_batch_size`, or another
  data-parallel size where a micro-batch has several rows, the auxiliary loss is another average.
- The router's bias is a buffer, `decoder.layers.<n>.mlp.router.expert_bias`. Megatron's `finalize_model_grads`, at the
  end of the pipeline schedule of a step, moves it by `bias_update_rate` towards the experts that got too little, from
  the counts of all ranks. It happens whether or not the optimizer then takes the step.
"""

from collections.abc import Sequence
from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.models.common.embeddings.rotary_pos_embedding import RotaryEmbedding
from megatron.core.models.gpt.gpt_model import GPTModel
from megatron.core.transformer.transformer_config import TransformerConfig

from tatara.model import rope
from tatara.model.compute import ComputeSettings
from tatara.model.initial import initialise
from tatara.model.layers import block_spec, compile_layers
from tatara.model.megatron_config import Layout, transformer_config
from tatara.model.megatron_head import LanguageModel
from tatara.model.norms import RMSNorm
from tatara.model.parameters import (
    EMBEDDING,
    OUTPUT,
    full_shape,
    global_buffers,
    global_parameters,
    is_expert,
    is_sharded,
    mark_experts,
    shard,
    unshard,
    unwrap,
)
from tatara.model.spec import ModelSpec

__all__ = [
    "EMBEDDING",
    "OUTPUT",
    "Layout",
    "RMSNorm",
    "build_model",
    "full_shape",
    "global_buffers",
    "global_parameters",
    "is_expert",
    "is_sharded",
    "set_rope",
    "shard",
    "transformer_config",
    "unshard",
    "unwrap",
]


def build_model(
    spec: ModelSpec,
    config: TransformerConfig,
    seed: int = 0,
    compute: ComputeSettings = ComputeSettings(),  # noqa: B008 - frozen
) -> list[GPTModel]:
    """Build this rank's model chunks (one, or one per virtual pipeline stage) with their initial weights.

    Megatron's process groups must be initialised and, without a GPU, the CPU adapter installed.

    Args:
        spec: The architecture.
        config: From `transformer_config`, with the same `compute`.
        seed: Of the initial weights. The same seed gives the same full tensors in every layout.
        compute: Attention kernel and compilation.
    """
    stages = config.virtual_pipeline_model_parallel_size
    chunks = []
    for stage in range(stages) if stages else [None]:
        chunk = LanguageModel(
            config,
            block_spec(spec, config, compute, stage),
            vocab_size=spec.padded_vocab_size,
            max_sequence_length=spec.max_position_embeddings,
            pre_process=parallel_state.is_pipeline_first_stage(ignore_virtual=False, vp_stage=stage),
            post_process=parallel_state.is_pipeline_last_stage(ignore_virtual=False, vp_stage=stage),
            share_embeddings_and_output_weights=spec.tie_word_embeddings,
            position_embedding_type="rope",
            vp_stage=stage,
        )
        mark_experts(chunk)
        initialise(chunk, spec, seed)
        _ignore_padding_logits(chunk, spec)
        chunks.append(chunk)
    set_rope(chunks, spec)
    if compute.compile:
        for chunk in chunks:
            compile_layers(chunk)
    return chunks


def set_rope(chunks: Sequence[torch.nn.Module], spec: ModelSpec) -> None:
    """Give a live model the rotary positions of a specification: base, scaling and longest sequence.

    Nothing else of the specification is looked at. Long-context phases change it between two steps.

    Args:
        chunks: What `build_model` returned, or the same wrapped for training.
        spec: The architecture from now on.
    """
    factor = rope.attention_factor(spec)
    scale = None if factor == 1.0 else factor**2 / spec.head_size**0.5
    for chunk in chunks:
        model = unwrap(chunk)
        embedding = model.rotary_pos_emb
        embedding.inv_freq = rope.inverse_frequencies(spec).to(embedding.inv_freq.device)
        model.rotary_pos_emb_cache.clear()
        model.rotary_base = spec.rope_theta
        model.max_sequence_length = model.max_position_embeddings = spec.max_position_embeddings
        model.config.softmax_scale = scale
        for layer in model.decoder.layers:
            # Scaling cosines and sines by YaRN's factor scales the scores by its square.
            layer.self_attention.core_attention.scale = scale
    # Megatron caches the angles of each length, for all models of the process.
    RotaryEmbedding.forward.cache_clear()


def _ignore_padding_logits(model: GPTModel, spec: ModelSpec) -> None:
    """Keep the rows that only pad the vocabulary out of the softmax, as if they were not there."""
    if not model.post_process:
        return
    local = spec.padded_vocab_size // parallel_state.get_tensor_model_parallel_world_size()
    first = max(spec.vocab_size - parallel_state.get_tensor_model_parallel_rank() * local, 0)
    if first >= local:
        return

    def hide(_: torch.nn.Module, __: Any, output: tuple[torch.Tensor, Any]) -> None:
        # In place and unseen by autograd, which saves a copy of all logits each way: their share in the softmax is
        # exactly zero, and so is their gradient.
        output[0].detach()[..., first:].fill_(torch.finfo(output[0].dtype).min)

    model.output_layer.register_forward_hook(hide)
