"""What the ranks of the attention tests do."""

from typing import Any

import torch
from megatron.core import parallel_state

from model.megatron_cases import initialise, layout, small_spec
from tatara.model.attention import DotProductAttention, context_slice, document_mask
from tatara.model.megatron import transformer_config


def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Query of 4 heads, key and value of 2 groups, `[sequence, batch, heads, head_dim]`, and document ids."""
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(16, 2, heads, 8, generator=generator, requires_grad=True) for heads in (4, 2, 2)]
    ids = torch.tensor([[0] * 5 + [1] * 1 + [2] * 10, [0] * 9 + [1] * 4 + [-1] * 3])
    return tensors[0], tensors[1], tensors[2], ids


def attend(cp: int, packed: bool) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """This rank's output and gradients of its part of the inputs, for the loss of summed squares."""
    sizes = layout(cp=cp)
    initialise(sizes)
    module = DotProductAttention(transformer_config(small_spec(), sizes), 1)
    rank = parallel_state.get_context_parallel_rank()
    *tensors, ids = inputs()
    ids = ids if packed else torch.zeros_like(ids)
    parts: list[Any] = [context_slice(t.detach(), cp, rank, dim=0).requires_grad_() for t in tensors]
    output = module(*parts, document_mask(ids, cp, rank))
    output.square().sum().backward()
    return output.detach(), [part.grad for part in parts]
