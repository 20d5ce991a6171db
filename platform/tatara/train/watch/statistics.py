"""Figures about a live model every few steps: parameter norms, update sizes, router load, memory. Cheap and collective.

One sum and one maximum over all ranks carry everything. Each parameter counts once, however many ranks hold it.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil
import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.transformer.moe.router import TopKRouter

from tatara.model.parameters import EMBEDDING, OUTPUT, global_parameters, is_expert, is_sharded

KINDS = ("embedding", "attention", "feed_forward", "norm", "router", "output")
_SAMPLE = 4096


@dataclass(frozen=True)
class RouterLoad:
    """Where the tokens of one layer of a mixture of experts went, over the micro-batches of one step."""

    layer: int
    """Counted from 0 in the whole model."""
    load: tuple[float, ...]
    """Tokens of each expert, relative to the mean: 1 everywhere is balance."""

    @property
    def violation(self) -> float:
        """Load of the fullest expert beyond the mean, relative to it (MaxVio of arXiv:2408.15664); 0 is balance."""
        return max(self.load) - 1.0

    @property
    def entropy(self) -> float:
        """Of the distribution of tokens over experts, relative to the largest possible; 1 is balance."""
        shares = np.array(self.load) / len(self.load)
        shares = shares[shares > 0]
        return float(-(shares * np.log(shares)).sum() / np.log(len(self.load)))

    @property
    def dead(self) -> int:
        """Experts that no token visited."""
        return sum(load == 0 for load in self.load)


@dataclass(frozen=True)
class StepStatistics:
    """Figures of one step, the same on every rank."""

    parameter_norms: Mapping[str, float]
    """Euclidean norm of all parameters of a kind."""
    update_ratios: Mapping[str, float]
    """Norm of what the step changed relative to the norm of the parameters, by kind, on a sample of each parameter."""
    router: tuple[RouterLoad, ...]
    """By layer; empty for a dense model."""
    memory_bytes: int
    """Resident memory of the largest rank."""
    gpu_memory_bytes: int
    """Largest amount allocated on a GPU since the last time; 0 without one."""

    def event(self) -> dict[str, Any]:
        """As the fields of a ``statistics`` event."""
        fields: dict[str, Any] = {
            "parameter_norms": dict(self.parameter_norms),
            "update_ratios": dict(self.update_ratios),
            "memory_bytes": self.memory_bytes,
        }
        if self.gpu_memory_bytes:
            fields["gpu_memory_bytes"] = self.gpu_memory_bytes
        if self.router:
            fields["router"] = {
                "layers": [each.layer for each in self.router],
                "loads": [[round(load, 3) for load in each.load] for each in self.router],
                "violation": max(each.violation for each in self.router),
                "entropy": min(each.entropy for each in self.router),
                "dead_experts": sum(each.dead for each in self.router),
            }
        return fields


class Statistics:
    """Takes the figures of an engine's model. Every method is to be called on all ranks."""

    def __init__(
        self, chunks: Sequence[torch.nn.Module], device: torch.device, every: int = 10, sample: int = _SAMPLE
    ) -> None:
        """Hook into the routers, where there are any.

        Args:
            chunks: As `Engine.chunks`.
            device: Where collectives run.
            every: Steps between two looks.
            sample: Entries per parameter and rank that update ratios are measured on.
        """
        self._chunks, self._device, self._every, self._sample = chunks, device, every, sample
        self._process = psutil.Process(os.getpid())
        self._before: list[torch.Tensor] = []
        self._listening = False
        self._loads: dict[int, torch.Tensor] = {}
        routers = [module for chunk in chunks for module in chunk.modules() if isinstance(module, TopKRouter)]
        for router in routers:
            router.register_forward_hook(self._listen)
        config = routers[0].config if routers else None
        # A pipeline rank without layers of its own still takes part in the sums.
        sizes = [0, 0] if config is None else [config.num_layers, config.num_moe_experts]
        agreed = torch.tensor(sizes, device=device)
        dist.all_reduce(agreed, dist.ReduceOp.MAX)
        self._layers, self._experts = (int(size) for size in agreed.tolist())

    def due(self, step: int) -> bool:
        """Whether a step is one to look at; steps are counted from 1."""
        return step == 1 or step % self._every == 0

    def before(self) -> None:
        """Call before a step that is due: remembers a sample of the parameters and starts to count tokens."""
        self._before = [self._taken(parameter).clone() for _, parameter in self._counted()]
        self._loads, self._listening = {}, True

    def after(self) -> StepStatistics:
        """Call after the same step. Collective over all ranks."""
        self._listening = False
        squares = torch.zeros(3, len(KINDS), dtype=torch.float64, device=self._device)
        for (name, parameter), before in zip(self._counted(), self._before, strict=True):
            kind = KINDS.index(parameter_kind(name))
            taken = self._taken(parameter)
            share = parameter.numel() / taken.numel()
            squares[0, kind] += _square(parameter)
            squares[1, kind] += _square(before) * share
            squares[2, kind] += _square(taken.float() - before.float()) * share
        self._before = []
        loads = torch.zeros(self._layers, self._experts, dtype=torch.float64, device=self._device)
        for layer, counts in self._loads.items():
            loads[layer] += counts
        total = torch.cat([squares.view(-1), loads.view(-1)])
        dist.all_reduce(total)
        memory = self._memory()
        dist.all_reduce(memory, dist.ReduceOp.MAX)
        norms, was, changed = total[: squares.numel()].view(3, -1).sqrt().tolist()
        return StepStatistics(
            {kind: norm for kind, norm in zip(KINDS, norms, strict=True) if norm},
            {kind: new / old for kind, new, old in zip(KINDS, changed, was, strict=True) if old},
            _router_loads(total[squares.numel() :].view(self._layers, self._experts).cpu().numpy()),
            *(int(size) for size in memory.tolist()),
        )

    def _counted(self) -> list[tuple[str, torch.nn.Parameter]]:
        """The parameters, of all that this rank holds, that count here and nowhere else."""
        return [(name, each) for name, each in global_parameters(self._chunks) if counts_here(each)]

    def _taken(self, parameter: torch.nn.Parameter) -> torch.Tensor:
        flat = parameter.detach().view(-1)
        return flat[:: -(-flat.numel() // self._sample)]

    def _listen(self, router: TopKRouter, _: Any, output: tuple[torch.Tensor, torch.Tensor]) -> None:
        # Recomputation runs a layer without gradients first, and again with them.
        if self._listening and router.training and torch.is_grad_enabled():
            layer = router.layer_number - 1
            counts = output[1].detach().sum(0, dtype=torch.float64)
            self._loads[layer] = self._loads.get(layer, 0) + counts

    def _memory(self) -> torch.Tensor:
        sizes = [self._process.memory_info().rss, 0]
        if self._device.type == "cuda":
            sizes[1] = torch.cuda.max_memory_allocated(self._device)
            torch.cuda.reset_peak_memory_stats(self._device)
        return torch.tensor(sizes, dtype=torch.int64, device=self._device)


def parameter_kind(name: str) -> str:
    """The kind of a parameter, one of `KINDS`, by its name in `global_parameters`."""
    if name == EMBEDDING:
        return "embedding"
    if name == OUTPUT:
        return "output"
    if "norm" in name:
        return "norm"
    if ".self_attention." in name:
        return "attention"
    return "router" if ".router." in name else "feed_forward"


def counts_here(parameter: torch.nn.Parameter) -> bool:
    """Whether this rank is the one, of all that hold the same shard of a parameter, that counts it."""
    if is_expert(parameter):
        return bool(parallel_state.get_expert_data_parallel_rank() == 0)
    if parallel_state.get_data_parallel_rank(with_context_parallel=True) != 0:
        return False
    return is_sharded(parameter) or parallel_state.get_tensor_model_parallel_rank() == 0


def _square(values: torch.Tensor) -> torch.Tensor:
    return torch.linalg.vector_norm(values.detach(), dtype=torch.float32).double() ** 2


def _router_loads(counts: npt.NDArray[np.float64]) -> tuple[RouterLoad, ...]:
    """Args: counts, tokens ``[layers, experts]``; layers without tokens are dense ones."""
    return tuple(
        RouterLoad(layer, tuple((row / row.mean()).tolist())) for layer, row in enumerate(counts) if row.sum() > 0
    )
