"""Where engines, reward workers and learner lie: what each reserves, and the placement group of the engines."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from tatara.cluster.packing import Bundle, describe_bundles
from tatara.errors import ClusterError
from tatara.rl.grpo import GrpoConfig

LEARNER_SHARE = 0.6
"""Of a GPU that a learner's rank shares with an engine: no two of them fit on one."""
ENGINE_SHARE = 0.4
"""What the engine gets of it, and of its memory."""
_MEMORY_SHARE = 0.9
"""Of an engine's part of a GPU: the rest is for what vLLM does not count."""


@dataclass(frozen=True)
class Placement:
    """What Ray reserves, and what follows from it."""

    engines: int
    engine: dict[str, float]
    """Resources of an engine."""
    rewards: int
    reward: dict[str, float]
    """Resources of a reward worker."""
    learner_gpus: float | None
    """GPUs of a learner's rank where engines share them; None leaves it to the training's own settings."""
    cuda: bool
    """Whether engines run on GPUs."""
    shared: bool
    """Whether each GPU holds an engine and a learner's rank."""
    sleep: bool
    """Whether engines free their memory while they have nothing to generate."""
    strategy: Literal["PACK", "SPREAD"]
    settings: dict[str, Any]
    """Literals of the engines' `EngineConfig`."""

    def all(self) -> list[dict[str, float]]:
        """The bundles of all workers beside the learner."""
        return [self.engine] * self.engines + [self.reward] * self.rewards


def place(config: GrpoConfig, gpus: float) -> Placement:
    """What a run reserves.

    Args:
        config: Of the run.
        gpus: All of the cluster's.
    """
    settings, there = config.rollout, gpus > 0
    shared = settings.colocate and there
    each = settings.gpus
    if shared:
        each = ENGINE_SHARE
    elif each is None:
        each = float(settings.engine.vllm_args.get("tensor_parallel_size", 1)) if there else 0.0
    sleep = settings.sleep or settings.colocate
    told = settings.engine.dump()
    if each:
        wanted: dict[str, Any] = {"enable_sleep_mode": True} if sleep else {}
        if each < 1:
            wanted["gpu_memory_utilization"] = round(each if shared else each * _MEMORY_SHARE, 3)
        told["vllm_args"] = wanted | told["vllm_args"]
    cpu = {"CPU": settings.cpus} if settings.cpus else {}
    return Placement(
        engines=settings.engines,
        engine=cpu | ({"GPU": each} if each else {}),
        rewards=config.reward_workers,
        reward={"CPU": config.cpus_per_reward_worker},
        learner_gpus=LEARNER_SHARE if shared else None,
        cuda=each > 0,
        shared=shared,
        sleep=sleep,
        strategy=settings.strategy,
        settings=told,
    )


def transport(config: GrpoConfig, placed: Placement, learner_cuda: bool) -> Literal["objects", "nccl", "gloo"]:
    """How weights travel.

    Args:
        config: Of the run.
        placed: Where the engines are.
        learner_cuda: Whether the learner computes on GPUs.
    """
    on_gpus = placed.cuda and learner_cuda
    sharded = config.rollout.engine.vllm_args.get("tensor_parallel_size", 1) != 1
    # NCCL takes no GPU twice, and the processes of a sharded engine are not those that meet.
    if config.sync.transport == "objects" or sharded or placed.shared or placed.engine.get("GPU", 1.0) < 1:
        return "objects"
    if config.sync.transport == "auto" and not on_gpus:
        return "objects"
    return "nccl" if on_gpus else "gloo"


@contextlib.contextmanager
def engine_places(placed: Placement, *, timeout_s: float = 300.0) -> Iterator[Callable[[int], dict[str, Any]]]:
    """Reserve a bundle for each engine, until the block ends.

    A worker that is started again gets its bundle again; should the bundle's machine die, Ray moves it.

    Args:
        placed: What to reserve.
        timeout_s: Longest time that it may take, in seconds.

    Yields:
        Takes an engine's number; returns options of its actor.

    Raises:
        ClusterError: The resources were not to be had in time.
    """
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    if not placed.engine:
        # Ray has no bundles of nothing.
        yield lambda number: {}
        return
    with contextlib.ExitStack() as held:
        with contextlib.ExitStack() as spacers:
            if placed.learner_gpus:
                # Ray fills a GPU that has room before it takes another: two engines would lie on one, had not a place
                # for the learner been taken on each before.
                spacers.enter_context(_reserved([{"GPU": placed.learner_gpus}] * placed.engines, "PACK", timeout_s))
            group = held.enter_context(_reserved([placed.engine] * placed.engines, placed.strategy, timeout_s))
        yield lambda number: {"scheduling_strategy": PlacementGroupSchedulingStrategy(group, number)}


@contextlib.contextmanager
def _reserved(bundles: list[Bundle], strategy: str, timeout_s: float) -> Iterator[Any]:
    from ray.util import placement_group, remove_placement_group

    group = placement_group([dict(bundle) for bundle in bundles], strategy=strategy)
    try:
        if not group.wait(timeout_seconds=timeout_s):
            raise ClusterError(
                f"grpo waited {timeout_s:g} s for {describe_bundles(bundles)}, which are not free: stop what else "
                "runs, or ask for fewer engines"
            )
        yield group
    finally:
        remove_placement_group(group)
