"""Attention by FlexAttention, with a block mask that is made from document bounds and never from the full square."""

from functools import lru_cache
from typing import Any

import torch
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from tatara.model.attention.documents import zigzag_positions
from tatara.model.attention.pieces import Work

_BLOCK = 128


@lru_cache(maxsize=64)
def block_mask(work: Work, device: torch.device) -> BlockMask:
    """Which blocks of 128 queries and 128 keys hold something to attend to, over the flattened rows.

    A query sees the keys from the first of its document to itself. Two comparisons per block tell whether it may hold
    something and whether it is full.
    """
    first, last = _seen(work)
    queries, keys = first.numel(), work.batch * work.length
    blocks = -(-queries // _BLOCK)
    # Padding repeats the last query.
    padding = blocks * _BLOCK - queries
    firsts, lasts = (torch.cat([t, t[-1:].expand(padding)]).view(blocks, _BLOCK) for t in (first, last))
    starts = torch.arange(0, keys, _BLOCK)
    ends = starts + _BLOCK - 1
    some = (ends >= firsts.amin(1, keepdim=True)) & (starts <= lasts.amax(1, keepdim=True))
    full = (starts >= firsts.amax(1, keepdim=True)) & (ends <= lasts.amin(1, keepdim=True))
    first, last = first.to(device), last.to(device)

    def sees(_: torch.Tensor, __: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        return (key >= first[query]) & (key <= last[query])

    return BlockMask.from_kv_blocks(
        *_listed(some & ~full, device), *_listed(full, device), _BLOCK, sees, seq_lengths=(queries, keys)
    )


def _seen(work: Work) -> tuple[torch.Tensor, torch.Tensor]:
    """The first and the last key of each query, numbered over the flattened full rows."""
    rows = torch.arange(work.batch)[:, None] * work.length
    last = (rows + zigzag_positions(work.length, work.cp, work.rank)).flatten()
    bounds = torch.arange(work.batch + 1) * work.length if work.bounds is None else torch.tensor(work.bounds)
    return bounds[torch.searchsorted(bounds, last, right=True) - 1], last


def _listed(blocks: torch.Tensor, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Per row of a boolean matrix: how many are true, and their columns first."""
    columns = blocks.to(torch.int8).argsort(dim=1, descending=True, stable=True)
    counts, columns = (t.to(torch.int32)[None, None].to(device) for t in (blocks.sum(1), columns))
    return counts, columns


@lru_cache(maxsize=1)
def _compiled() -> Any:
    return torch.compile(flex_attention)


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    work: Work,
    scale: float | None,
    function: Any = None,
) -> torch.Tensor:
    """Attention of this rank's queries to all keys; shapes as in `cpu.attend`.

    Args:
        query: See there.
        key: See there.
        value: See there.
        work: See there.
        scale: See there.
        function: In the place of the compiled FlexAttention.
    """
    # [b, s, h, d] -> [1, h, b * s, d]
    packed = (tensor.flatten(0, 1).transpose(0, 1)[None] for tensor in (query, key, value))
    output: torch.Tensor = (function or _compiled())(
        *packed, block_mask=block_mask(work, query.device), scale=scale, enable_gqa=query.shape[2] != key.shape[2]
    )
    return output[0].transpose(0, 1).unflatten(0, (work.batch, -1))
