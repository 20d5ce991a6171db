"""Attention by pieces with PyTorch's blocked CPU kernels, forward and backward.

A causal piece whose queries are fewer than its keys is computed in two: the keys that all queries see, without a mask,
and the square at the end, causal; their results are joined by log-sum-exp (as the blocks of FlashAttention,
arXiv:2205.14135). For the backward pass each part gets the joint result, from which its own gradients follow. One
masked call instead takes 1.2 to 1.6 times as long.

Very short documents cost a call each, which is more than their arithmetic: those of similar length are padded to a
common one and computed together, which takes 40 % off a row of documents of four tokens. Which length depends on
their own alone, so that no document has an influence on the rounding of another.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from tatara.model.attention.pieces import Piece, Work

# Lengths that short documents are padded to.
_PADDED = (1, 2, 3, 4, 6, 8, 12, 16)

_forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default
_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward.default


def attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, work: Work, scale: float | None
) -> torch.Tensor:
    """Attention of this rank's queries to all keys.

    Args:
        query: `[batch, sequence / cp, heads, head_dim]`.
        key: `[batch, sequence, groups, head_dim]`, in natural order.
        value: Like key.
        work: What attends to what.
        scale: Of the scores; None means head_dim ** -0.5.

    Returns:
        Like query.
    """
    result: torch.Tensor = _Attention.apply(_dense(query), _dense(key), _dense(value), work, scale)
    return result


@dataclass(frozen=True)
class _Group:
    """Short documents under each other, padded by repeating their last token, which no earlier token sees."""

    rows: torch.Tensor
    """`[documents, 1]`."""
    queries: torch.Tensor
    """`[documents, padded length]` positions."""
    keys: torch.Tensor
    """Likewise."""
    real: torch.Tensor
    """Where in the flattened group something else than padding is."""

    def take(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> list[torch.Tensor]:
        """The documents of each, `[documents, heads, padded length, head_dim]`."""
        pairs = ((query, self.queries), (key, self.keys), (value, self.keys))
        return [tensor[self.rows, positions].transpose(1, 2) for tensor, positions in pairs]

    def where(self, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows and positions of all that is not padding."""
        return self.rows.expand_as(positions).flatten()[self.real], positions.flatten()[self.real]


@lru_cache(maxsize=64)
def _split(work: Work) -> tuple[tuple[Piece, ...], tuple[_Group, ...]]:
    """The pieces to compute one by one, and the short documents to compute together."""
    alone: list[Piece] = []
    short: dict[int, list[Piece]] = {}
    for piece in work.pieces():
        length = piece.queries[1] - piece.queries[0]
        if work.bounds is None or piece.prefix or length > _PADDED[-1]:
            alone.append(piece)
        else:
            short.setdefault(next(size for size in _PADDED if size >= length), []).append(piece)
    groups = []
    for size, members in short.items():
        ranges = torch.tensor([(p.rows[0], p.queries[0], p.keys[0], p.queries[1] - p.queries[0]) for p in members])
        rows, queries, keys, lengths = ranges.unsqueeze(2).unbind(1)
        offsets = torch.arange(size).expand(len(members), size)
        real = (offsets < lengths).flatten().nonzero().flatten()
        offsets = torch.minimum(offsets, lengths - 1)
        groups.append(_Group(rows, queries + offsets, keys + offsets, real))
    return tuple(alone), tuple(groups)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, work: Work, scale: float | None
    ) -> torch.Tensor:
        batch, sequence, heads, _ = query.shape
        # In memory as Megatron wants the result: sequence first.
        output = query.new_empty(sequence, batch, heads, value.shape[-1]).transpose(0, 1)
        precise = torch.promote_types(query.dtype, torch.float32)
        sums = query.new_empty(batch, sequence, heads, dtype=precise).transpose(1, 2)
        alone, groups = _split(work)
        for piece in alone:
            result, joint = _attend_piece(query, key, value, piece, scale)
            at = slice(*piece.rows), slice(*piece.queries)
            output[at] = result.transpose(1, 2)
            sums[at[0], :, at[1]] = joint
        saved = []
        for group in groups:
            result, joint = _forward(*group.take(query, key, value), 0.0, True, scale=scale)
            output[group.where(group.queries)] = result.transpose(1, 2).flatten(0, 1)[group.real]
            saved += [result, joint]
        ctx.save_for_backward(query, key, value, output, sums, *saved)
        ctx.work, ctx.scale = work, scale
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query, key, value, output, sums, *saved = ctx.saved_tensors
        gradient = _dense(gradient)
        gradients = _Gradients(query, key, value, ctx.work)
        alone, groups = _split(ctx.work)
        for piece in alone:
            rows, at = slice(*piece.rows), slice(*piece.queries)
            queries, came, result = (t[rows, at].transpose(1, 2) for t in (query, gradient, output))
            of_queries: Any = 0
            for first, last, causal in _parts(piece):
                keys, values = (tensor[rows, first:last].transpose(1, 2) for tensor in (key, value))
                found = _backward(came, queries, keys, values, result, sums[rows, :, at], 0.0, causal, scale=ctx.scale)
                of_queries = of_queries + found[0]
                gradients.of_keys((rows, slice(first, last)), *(part.transpose(1, 2) for part in found[1:]))
            gradients.query[rows, at] = of_queries.transpose(1, 2)
        for group, result, joint in zip(groups, saved[::2], saved[1::2], strict=True):
            incoming = torch.zeros_like(result).transpose(1, 2).contiguous()
            incoming.flatten(0, 1)[group.real] = gradient[group.where(group.queries)]
            parts = group.take(query, key, value)
            found = _backward(incoming.transpose(1, 2), *parts, result, joint, 0.0, True, scale=ctx.scale)
            of_queries, *others = (part.transpose(1, 2).flatten(0, 1)[group.real] for part in found)
            gradients.query[group.where(group.queries)] = of_queries
            gradients.of_keys(group.where(group.keys), *others)
        return gradients.query, gradients.key.to(key.dtype), gradients.value.to(value.dtype), None, None


class _Gradients:
    """What the backward pass fills in.

    Under context parallelism a key belongs to no piece of the rank, to one, or to two whose gradients add up, in
    float32 at least. Otherwise it belongs to exactly one.
    """

    def __init__(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, work: Work) -> None:
        self._shared = work.cp > 1
        self.query = torch.empty_like(query)
        if self._shared:
            precise = torch.promote_types(key.dtype, torch.float32)
            self.key, self.value = (torch.zeros_like(tensor, dtype=precise) for tensor in (key, value))
        else:
            self.key, self.value = torch.empty_like(key), torch.empty_like(value)

    def of_keys(self, at: tuple[Any, Any], key: torch.Tensor, value: torch.Tensor) -> None:
        """Take gradients of keys and values `[..., groups, head_dim]`; no key may be twice among them."""
        for total, part in ((self.key, key), (self.value, value)):
            total[at] = total[at] + part if self._shared else part


def _attend_piece(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, piece: Piece, scale: float | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Result `[rows, heads, queries, head_dim]` and log-sum-exp of the scores `[rows, heads, queries]`."""
    rows = slice(*piece.rows)
    queries = query[rows, slice(*piece.queries)].transpose(1, 2)
    found = []
    for first, last, causal in _parts(piece):
        keys, values = (tensor[rows, first:last].transpose(1, 2) for tensor in (key, value))
        found.append(_forward(queries, keys, values, 0.0, causal, scale=scale))
    (result, sums), *before = found
    for other, other_sums in before:
        joint = torch.logaddexp(sums, other_sums)
        weighted = result * (sums - joint).exp_()[..., None]
        weighted += other * (other_sums - joint).exp_()[..., None]
        result, sums = weighted.to(query.dtype), joint
    return result, sums


def _parts(piece: Piece) -> Iterator[tuple[int, int, bool]]:
    """Ranges of keys, each with whether its mask is causal: the square at the end, then what all queries see."""
    start, end = piece.keys
    middle = start + piece.prefix
    yield middle, end, True
    if piece.prefix:
        yield start, middle, False


def _dense(tensor: torch.Tensor) -> torch.Tensor:
    """The kernels read heads as if their elements were neighbours."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()
