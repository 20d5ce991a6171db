"""What the ranks of the attention tests do."""

from typing import Any

import torch
from megatron.core import parallel_state, tensor_parallel
from megatron.core.transformer.transformer_config import TransformerConfig
from torch.utils.checkpoint import checkpoint

from model.attention import oracle
from tatara.model.attention import DotProductAttention, context_slice, document_mask


def attend(cases: list[dict[str, Any]], tp: int = 1, cp: int = 1) -> list[list[torch.Tensor]]:
    """Per case this rank's output and gradients, `[batch, sequence, heads, head_dim]`; see `_case`."""
    parallel_state.initialize_model_parallel(tp, context_parallel_size=cp)
    tensor_parallel.model_parallel_cuda_manual_seed(1)
    return [_case(tp, cp, **case) for case in cases]


def failure(tp: int, cp: int, heads: int, groups: int, **keywords: Any) -> str:
    """The message of a module that cannot be built."""
    parallel_state.initialize_model_parallel(tp, context_parallel_size=cp)
    try:
        _module(tp, cp, heads, groups, **keywords)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "built"


def _module(tp: int, cp: int, heads: int, groups: int, **keywords: Any) -> DotProductAttention:
    dtype = keywords.pop("dtype", torch.float32)
    config = TransformerConfig(
        num_layers=1,
        hidden_size=heads * 16,
        num_attention_heads=heads,
        num_query_groups=groups,
        tensor_model_parallel_size=tp,
        context_parallel_size=cp,
        params_dtype=dtype,
        bf16=dtype is torch.bfloat16,
    )
    return DotProductAttention(config, 1, attn_mask_type=None, cp_comm_type=None, **keywords)


def _case(
    tp: int,
    cp: int,
    layout: str,
    groups: int,
    heads: int = 4,
    recompute: bool = False,
    scale: float | None = None,
    dtype: torch.dtype = torch.float32,
    **keywords: Any,
) -> list[torch.Tensor]:
    module = _module(tp, cp, heads, groups, dtype=dtype, **keywords)
    module.scale = scale
    tp_rank, cp_rank = parallel_state.get_tensor_model_parallel_rank(), parallel_state.get_context_parallel_rank()
    rows = oracle.LAYOUTS[layout]
    # As Megatron has them, of this rank: [sequence / cp, batch, heads / tp, head_dim].
    parts = [
        context_slice(t.to(dtype), cp, cp_rank).chunk(tp, 2)[tp_rank].transpose(0, 1).contiguous()
        for t in oracle.inputs(groups, heads)
    ]
    *leaves, weights = parts
    leaves = [leaf.requires_grad_() for leaf in leaves]
    mask = document_mask(oracle.document_ids(rows))
    output = checkpoint(module, *leaves, mask, use_reentrant=False) if recompute else module(*leaves, mask)
    assert output.shape == (*weights.shape[:2], weights.shape[2] * weights.shape[3])
    output = output.view_as(weights)
    (output * weights).sum().backward()
    return [each.detach().transpose(0, 1) for each in (output, *(leaf.grad for leaf in leaves))]
