"""What a pass over a global batch measured, added up over all ranks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from megatron.core import parallel_state

from tatara.train.feed.batches import Batch
from tatara.train.policy_objective import MAXIMA, SUMS, figures
from tatara.train.watch.flops import DocumentLoad, document_load


@dataclass(frozen=True)
class StepResult:
    """What one training step measured, over all ranks."""

    loss: float
    """Mean loss per target, in nats."""
    tokens: int
    """Targets with a loss weight."""
    gradient_norm: float
    """Global gradient norm before clipping."""
    load: DocumentLoad
    """Documents of the batch, for the count of its arithmetic."""
    applied: bool
    """Whether the optimizer took the step; otherwise the model is what it was before."""
    figures: Mapping[str, float] = field(default_factory=dict)
    """Of a policy loss: means (`policy_objective.SUMS`) and extremes (`policy_objective.MAXIMA`) over its targets."""


@dataclass(frozen=True)
class LossSum:
    """A summed loss over all ranks."""

    total: float
    """Summed loss, in nats."""
    tokens: int
    """Targets with a loss weight."""
    load: DocumentLoad
    """Documents of the batch."""
    figures: Mapping[str, float] = field(default_factory=dict)
    """See `StepResult`."""

    @property
    def mean(self) -> float:
        """Loss per target, in nats; 0 without targets."""
        return self.total / self.tokens if self.tokens else 0.0


def add_up(
    reduced: Sequence[Mapping[str, torch.Tensor]], micro_batches: Sequence[Batch], device: torch.device, *, policy: bool
) -> LossSum:
    """Add up over micro-batches and ranks; collective.

    Args:
        reduced: What the loss functions returned, one mapping per micro-batch: ``sum`` is summed loss and targets;
            with a policy loss ``sums`` and ``maxima`` are as of `policy_objective`. Empty but on the last stage.
        micro_batches: This data-parallel rank's.
        device: For the messages.
        policy: Whether the loss was a policy's.
    """
    # float64: counts stay exact, and one message carries all sums.
    total = torch.zeros(4 + len(SUMS), dtype=torch.float64, device=device)
    maxima = torch.full((len(MAXIMA),), -torch.inf, dtype=torch.float64, device=device)
    if parallel_state.is_pipeline_last_stage(ignore_virtual=True):
        total[:2] = torch.stack([part["sum"] for part in reduced]).sum(0)
        load = sum((document_load(batch.document_ids) for batch in micro_batches), DocumentLoad())
        # Every context-parallel rank has the whole rows.
        shares = parallel_state.get_context_parallel_world_size()
        total[2:4] = torch.tensor([load.tokens, load.squares], dtype=torch.float64) / shares
        group = parallel_state.get_data_parallel_group(with_context_parallel=True)
        if policy:
            total[4:] = torch.stack([part["sums"] for part in reduced]).sum(0)
            maxima[:] = torch.stack([part["maxima"] for part in reduced]).amax(0)
            dist.all_reduce(maxima, op=dist.ReduceOp.MAX, group=group)
        dist.all_reduce(total, group=group)
    tell_all_stages(total)
    if policy:
        tell_all_stages(maxima)
    summed, tokens, positions, squares = total[:4].tolist()
    measured = figures(total[4:], maxima, tokens) if policy else {}
    return LossSum(summed, int(tokens), DocumentLoad(round(positions), round(squares)), measured)


def tell_all_stages(tensor: torch.Tensor) -> None:
    """Give every pipeline stage what the last one has; collective."""
    if parallel_state.get_pipeline_model_parallel_world_size() > 1:
        source = parallel_state.get_pipeline_model_parallel_last_rank()
        dist.broadcast(tensor, source, group=parallel_state.get_pipeline_model_parallel_group())
