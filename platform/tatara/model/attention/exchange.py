"""How context-parallel ranks get at the keys and values of each other, and the way back of the gradients.

Every rank holds the zig-zag chunks of `zigzag_positions`; what comes out of an exchange is in natural order.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch.autograd.function import once_differentiable

from tatara.errors import LayoutError


def gather_context(
    key: torch.Tensor, value: torch.Tensor, group: dist.ProcessGroup
) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values of the full rows, by all-gather (Llama 3, arXiv:2407.21783 section 3.3.2).

    Args:
        key: `[sequence / cp, batch, groups, head_dim]`, groups not repeated.
        value: Like key.
        group: The context-parallel ranks.

    Returns:
        Each `[batch, sequence, groups, head_dim]`. Their gradients are summed over the ranks, in the order of ranks.
    """
    both = _Gather.apply(torch.cat([key, value], dim=-1), group).transpose(0, 1)
    full_key, full_value = both.split([key.shape[-1], value.shape[-1]], dim=-1)
    return full_key, full_value


def check_heads(heads: int, groups: int, cp: int, where: str) -> None:
    """Whether heads can be traded for sequence.

    Args:
        heads: Query heads of one tensor-parallel rank.
        groups: Its key/value heads.
        cp: Context-parallel size.
        where: What follows in the message: how the numbers come about.

    Raises:
        LayoutError: They cannot.
    """
    if heads % cp:
        raise LayoutError(f"context exchange a2a: cp {cp} must divide the {heads} attention heads {where}")
    if groups % cp and cp % groups:
        raise LayoutError(
            f"context exchange a2a: cp {cp} must divide the {groups} query groups {where}, or be a multiple of them"
        )


def sequence_to_heads(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, group: dist.ProcessGroup
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Full rows of a part of the heads, for a part of the rows of all heads (Ulysses, arXiv:2309.14509).

    Key/value heads fewer than ranks are repeated.

    Args:
        query: `[sequence / cp, batch, heads, head_dim]`.
        key: `[sequence / cp, batch, groups, head_dim]`.
        value: Like key.
        group: The context-parallel ranks.

    Returns:
        Each `[batch, sequence, its heads / cp, head_dim]`.
    """
    cp = group.size()
    if key.shape[2] < cp:
        key, value = (tensor.repeat_interleave(cp // tensor.shape[2], dim=2) for tensor in (key, value))
    heads = [tensor.shape[2] // cp for tensor in (query, key, value)]
    # One message: per rank, its heads of all three. [s / cp, b, cp, heads, d] -> [cp, s / cp, b, heads, d].
    parts = torch.cat([tensor.unflatten(2, (cp, -1)) for tensor in (query, key, value)], dim=3)
    received = _Trade.apply(parts.permute(2, 0, 1, 3, 4), group)
    own_query, own_key, own_value = _to_natural(received).transpose(0, 1).split(heads, dim=2)
    return own_query, own_key, own_value


def heads_to_sequence(output: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
    """The way back: `[batch, sequence, heads / cp, head_dim]` to `[batch, sequence / cp, heads, head_dim]`."""
    received = _Trade.apply(_from_natural(output.transpose(0, 1), group.size()), group)
    # In memory as Megatron wants it: sequence first.
    return received.permute(1, 2, 0, 3, 4).flatten(2, 3).transpose(0, 1)


def _to_natural(parts: torch.Tensor) -> torch.Tensor:
    """`[cp, sequence / cp, ...]`, zig-zag chunks by rank, to `[sequence, ...]`."""
    halves = parts.unflatten(1, (2, -1))
    return torch.cat([halves[:, 0], halves[:, 1].flip(0)]).flatten(0, 1)


def _from_natural(rows: torch.Tensor, cp: int) -> torch.Tensor:
    """The inverse of `_to_natural`."""
    chunks = rows.unflatten(0, (2 * cp, -1))
    return torch.stack([chunks[:cp], chunks[cp:].flip(0)], dim=1).flatten(1, 2)


def _swap(tensor: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
    """Send part i to rank i; what comes from rank i is part i."""
    sent = tensor.contiguous()
    received = torch.empty_like(sent)
    dist.all_to_all_single(received, sent, group=group)
    return received


class _Trade(torch.autograd.Function):
    """All-to-all of equal parts `[cp, ...]`."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
        ctx.group = group
        return _swap(tensor, group)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return _swap(gradient, ctx.group), None


class _Gather(torch.autograd.Function):
    """`[sequence / cp, ...]` of all ranks to `[sequence, ...]` in natural order."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
        ctx.group = group
        parts = tensor.new_empty(group.size() * tensor.shape[0], *tensor.shape[1:])
        dist.all_gather_into_tensor(parts, tensor.contiguous(), group=group)
        return _to_natural(parts.unflatten(0, (group.size(), -1)))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        group = ctx.group
        parts = _from_natural(gradient, group.size())
        if gradient.device.type == "cpu":
            # Gloo's reduce-scatter takes eight times as long as trading the parts and adding them here, its all-reduce
            # one and a half times; this also adds in float32.
            precise = torch.promote_types(parts.dtype, torch.float32)
            return _swap(parts, group).sum(0, dtype=precise).to(parts.dtype), None
        total = torch.empty_like(parts[0])
        dist.reduce_scatter_tensor(total, parts.flatten(0, 1).contiguous(), group=group)
        return total, None
