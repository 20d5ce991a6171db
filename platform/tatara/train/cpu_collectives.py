"""Collectives of the distributed optimizer over gloo, made of those that gloo does fast.

Measured with 27 million float32 over two ranks of one thread: reduce-scatter 100 instead of 253 ms, all-gather 62
instead of 141 ms.
"""

import functools
from typing import Any

import torch
import torch.distributed as dist

from tatara.errors import EngineError


def reduce_scatter(
    output: torch.Tensor, input: torch.Tensor, op: Any = None, group: Any = None, async_op: bool = False
) -> None:
    """What `torch.distributed.reduce_scatter_tensor` does, for sums and means that are waited for.

    Args:
        output: This rank's part, ``[n]``; it may be a part of the input.
        input: ``[ranks * n]``.
        op: Sum or mean; None means the sum.
        group: Process group.
        async_op: Must be False.

    Raises:
        EngineError: Another reduction is asked for.
    """
    if async_op or op not in (None, dist.ReduceOp.SUM, dist.ReduceOp.AVG):
        raise EngineError(f"the CPU adapter reduces gradients to sums and means that are waited for, not {op}")
    received = _scratch(input.numel(), input.dtype)
    dist.all_to_all_single(received, input, group=group)
    parts = received.view(dist.get_world_size(group), -1)
    output.copy_(parts[0])
    for part in parts[1:]:
        output += part
    if op == dist.ReduceOp.AVG:
        output /= len(parts)


@functools.lru_cache(maxsize=8)
def _scratch(size: int, dtype: torch.dtype) -> torch.Tensor:
    """Memory for what is received, kept: the system takes longer to hand out new pages than the sum does."""
    return torch.empty(size, dtype=dtype)


def all_gather(output: torch.Tensor, input: torch.Tensor, group: Any = None, async_op: bool = False) -> None:
    """What `torch.distributed.all_gather_into_tensor` does, and waits for it.

    Args:
        output: ``[ranks * n]``.
        input: This rank's part, ``[n]``; it may be a part of the output.
        group: Process group.
        async_op: Must be False.

    Raises:
        EngineError: It shall not be waited for.
    """
    if async_op:
        raise EngineError("the CPU adapter waits for parameters: overlap_param_gather is for GPUs")
    parts = output.view(dist.get_world_size(group), -1)
    mine = parts[dist.get_rank(group)]
    if mine.data_ptr() != input.data_ptr():
        mine.copy_(input)
    for rank, part in enumerate(parts):
        source = rank if group is None else dist.get_global_rank(group, rank)
        dist.broadcast(part, source, group=group)
