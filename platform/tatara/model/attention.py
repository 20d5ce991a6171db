"""Causal attention that keeps packed documents apart, for Megatron's transformer layers.

The mask travels through Megatron's `attention_mask` argument as one tensor, made once per micro-batch by
`document_mask`:

- `None`: causal attention over the whole row;
- 1-D int32: cumulative document lengths over the flattened micro-batch, starting at 0 (the `cu_seqlens` of
  flash-attention); each document is attended by itself, so the cost is the sum of squared document lengths;
- 4-D float `[batch, 1, local sequence, full sequence]`: added to the scores; used under context parallelism.

Context parallelism gives rank r the chunks r and 2*cp-1-r of each sequence, so that every rank has the same amount of
causal work, and gathers keys and values (Llama 3, arXiv:2407.21783 section 3.3.2).
"""

import itertools
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from megatron.core import parallel_state
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.transformer_config import TransformerConfig


def zigzag_positions(sequence_length: int, cp_size: int, cp_rank: int) -> torch.Tensor:
    """Positions in the full sequence that a context-parallel rank holds, in its order.

    Args:
        sequence_length: Full sequence length in tokens, a multiple of 2 * cp_size.
        cp_size: Context-parallel size.
        cp_rank: Rank within it.

    Returns:
        `[sequence_length / cp_size]` int64.
    """
    if cp_size == 1:
        return torch.arange(sequence_length)
    chunks = torch.arange(sequence_length).chunk(2 * cp_size)
    return torch.cat([chunks[cp_rank], chunks[2 * cp_size - 1 - cp_rank]])


def context_slice(tensor: torch.Tensor, cp_size: int, cp_rank: int, dim: int = 1) -> torch.Tensor:
    """The part of a full `[batch, sequence]` tensor that a context-parallel rank works on."""
    if cp_size == 1:
        return tensor
    return tensor.index_select(dim, zigzag_positions(tensor.shape[dim], cp_size, cp_rank).to(tensor.device))


def document_mask(
    document_ids: torch.Tensor, cp_size: int = 1, cp_rank: int = 0, dtype: torch.dtype = torch.float32
) -> torch.Tensor | None:
    """Build the attention mask of one micro-batch, for `DotProductAttention`.

    Args:
        document_ids: `[batch, sequence]` integers, full (not context-parallel) rows; positions with the same id in
            one row are contiguous and belong together. Padding is a document of its own.
        cp_size: Context-parallel size.
        cp_rank: Rank within it.
        dtype: Type of the queries, for the additive mask.

    Returns:
        `None`, cumulative lengths, or an additive mask: see the module's description.
    """
    batch, length = document_ids.shape
    if cp_size == 1:
        starts = torch.ones(batch, length, dtype=torch.bool, device=document_ids.device)
        starts[:, 1:] = document_ids[:, 1:] != document_ids[:, :-1]
        bounds = starts.flatten().nonzero().flatten()
        if bounds.numel() == batch:
            return None
        return F.pad(bounds, (0, 1), value=batch * length).to(torch.int32)
    device = document_ids.device
    queries = zigzag_positions(length, cp_size, cp_rank).to(device)
    keys = torch.cat([zigzag_positions(length, cp_size, rank) for rank in range(cp_size)]).to(device)
    causal = queries[:, None] >= keys[None, :]
    same = document_ids[:, queries][:, :, None] == document_ids[:, keys][:, None, :]
    bias = torch.zeros(same.shape, dtype=dtype, device=device)
    return bias.masked_fill_(~(causal & same), float("-inf"))[:, None]


class _AllGather(torch.autograd.Function):
    """Stack a tensor over a process group; the gradient is summed back to its owner."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
        ctx.group = group
        parts = [torch.empty_like(tensor) for _ in range(group.size())]
        dist.all_gather(parts, tensor.contiguous(), group=group)
        return torch.stack(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        # gloo has no reduce-scatter.
        gradient = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(gradient, group=ctx.group)
        return gradient[ctx.group.rank()], None


class DotProductAttention(MegatronModule):
    """Grouped-query attention by PyTorch's `scaled_dot_product_attention`, in the place of Megatron's core attention.

    It takes query `[sequence, batch, heads, head_dim]` and key and value `[sequence, batch, groups, head_dim]`, local
    to this tensor- and context-parallel rank, and returns `[sequence, batch, heads * head_dim]`.
    """

    def __init__(self, config: TransformerConfig, layer_number: int, *_: Any, pg_collection: Any = None, **__: Any):
        super().__init__(config)
        self.layer_number = layer_number
        self.scale = config.softmax_scale
        self.cp_group = parallel_state.get_context_parallel_group() if pg_collection is None else pg_collection.cp

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        *_: Any,
        **__: Any,
    ) -> torch.Tensor:
        """Attend; see the module's description for the forms of `attention_mask`."""
        sequence, batch = query.shape[:2]
        if self.cp_group.size() > 1:
            if attention_mask is None or attention_mask.dim() != 4:
                raise ValueError("context parallelism needs the additive mask of document_mask(ids, cp_size, cp_rank)")
            key = _AllGather.apply(key, self.cp_group).flatten(0, 1)
            value = _AllGather.apply(value, self.cp_group).flatten(0, 1)
        if attention_mask is not None and attention_mask.dim() == 1:
            return self._by_document(query, key, value, attention_mask)
        # [s, b, h, d] -> [b, h, s, d]
        query, key, value = (tensor.permute(1, 2, 0, 3) for tensor in (query, key, value))
        output = _attend(query, key, value, attention_mask, self.scale)
        return output.permute(2, 0, 1, 3).reshape(sequence, batch, -1)

    def _by_document(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bounds: torch.Tensor
    ) -> torch.Tensor:
        sequence, batch = query.shape[:2]
        lengths = [end - start for start, end in itertools.pairwise(bounds.tolist())]
        # [s, b, h, d] -> [h, b * s, d], then one piece per document. `split` has a cheap backward (one concatenation);
        # slicing one document after the other would make a full-size gradient for each.
        pieces = [
            tensor.permute(2, 1, 0, 3).reshape(1, tensor.shape[2], batch * sequence, -1).split(lengths, dim=2)
            for tensor in (query, key, value)
        ]
        output = torch.cat([_attend(q, k, v, None, self.scale) for q, k, v in zip(*pieces, strict=True)], dim=2)
        # [1, h, b * s, d] -> [s, b, h * d]
        return output.view(-1, batch, sequence, output.shape[-1]).permute(2, 1, 0, 3).reshape(sequence, batch, -1)


def _attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bias: torch.Tensor | None, scale: float | None
) -> torch.Tensor:
    return F.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=bias,
        is_causal=bias is None,
        scale=scale,
        enable_gqa=query.shape[1] != key.shape[1],
    )
