"""What a process with the CPU adapter sees, for its tests."""

from typing import Any

import torch


def replaced() -> dict[str, Any]:
    """What a process with the adapter sees."""
    from megatron.core.optimizer import clip_grads

    from tatara.train import cpu_adapter

    try:
        torch.zeros(1, device="cuda")
        refuses = False
    except (AssertionError, RuntimeError):
        refuses = True
    return {
        "installed again": cpu_adapter.install(),
        "cuda available": torch.cuda.is_available(),
        "current device": str(torch.cuda.current_device()),
        "type outside": torch.zeros(1).type(),
        "torch itself refuses cuda": refuses,
        "megatron allocates": str(clip_grads.torch.zeros(1, device="cuda").device),
    }


def refusal_after(change: str) -> str:
    """What the adapter says when it is installed after a change to Megatron, which is Python's own text."""
    from tatara.errors import EngineError
    from tatara.train import cpu_adapter

    exec(change, {})
    try:
        cpu_adapter.install()
    except EngineError as error:
        return str(error)
    return "installed"


def collectives() -> dict[str, Any]:
    """The adapter's reduce-scatter and all-gather, in place as Megatron calls them, and torch's own."""
    import torch.distributed as dist

    from tatara.train import cpu_collectives

    rank, size = dist.get_rank(), dist.get_world_size()
    numbers = torch.arange(size * 5, dtype=torch.float64) * (rank + 1)
    found: dict[str, Any] = {}
    for name, op in (("sum", dist.ReduceOp.SUM), ("mean", dist.ReduceOp.AVG)):
        buffer = numbers.clone()
        part = buffer.view(size, -1)[rank]
        cpu_collectives.reduce_scatter(part, buffer, op=op, group=dist.group.WORLD)
        found[name] = part.clone()
    whole = numbers.clone()
    dist.all_reduce(whole)
    found["expected"] = whole.view(size, -1)[rank]
    buffer = torch.full((size * 3,), -1.0)
    part = buffer.view(size, -1)[rank]
    part.fill_(rank)
    cpu_collectives.all_gather(buffer, part, group=dist.group.WORLD)
    found["gathered"] = buffer
    return found
