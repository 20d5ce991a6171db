"""What the ranks of the watching tests do."""

from typing import Any


def gather_times() -> Any:
    import torch
    import torch.distributed as dist

    from tatara.train.watch.stragglers import RankTime, gather

    return gather(RankTime(1.0 + dist.get_rank(), 0.5, 0.25), torch.device("cpu"))


def statistics(tokens: str, layout: dict[str, Any], steps: int, changes: dict[str, Any]) -> Any:
    """Statistics of each step, and from the parameters of a rank alone the norms before and after the last one."""
    from tatara.model.parameters import global_parameters
    from tatara.train.watch.statistics import Statistics
    from train.engine_cases import Run

    run = Run(tokens, layout, **changes)
    watched = Statistics(run.engine.chunks, run.engine.device, every=2, sample=10**9)
    found = []
    for step in range(steps):
        before = {name: each.detach().double().clone() for name, each in global_parameters(run.engine.chunks)}
        watched.before()
        run.step(step)
        found.append(watched.after())
    after = {name: each.detach().double() for name, each in global_parameters(run.engine.chunks)}
    run.validate()
    return found, before, after
