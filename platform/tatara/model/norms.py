"""RMS normalisation in the places where Megatron's layers want one."""

from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.dist_checkpointing.mapping import ShardedStateDict
from megatron.core.tensor_parallel import set_tensor_model_parallel_attributes
from megatron.core.transformer.transformer_config import TransformerConfig
from megatron.core.transformer.utils import ensure_metadata_has_dp_cp_group, make_sharded_tensors_for_checkpoint


class RMSNorm(torch.nn.RMSNorm):
    """RMS normalisation whose weight is marked for the gradient reduction of sequence parallelism.

    Megatron's wrapper of torch's norm refuses sequence parallelism; all it takes is the mark.
    """

    def __init__(self, config: TransformerConfig, hidden_size: int, eps: float = 1e-5, **_: Any) -> None:
        super().__init__(hidden_size, eps=eps, device=_device(config), dtype=config.params_dtype)
        self.weight.sequence_parallel = config.sequence_parallel


class AllHeadsRMSNorm(torch.nn.Module):
    """RMS normalisation over all heads together, which tensor parallelism splits (OLMo 2, arXiv:2501.00656).

    Takes and returns this rank's heads, `[sequence, batch, heads / tp, head_dim]`. The weight is split as the heads
    are; its gradient is complete on the rank that holds it.
    """

    def __init__(
        self, config: TransformerConfig, hidden_size: int, heads: int, eps: float = 1e-5, pg_collection: Any = None
    ) -> None:
        """Make the module.

        Args:
            config: Megatron's configuration.
            hidden_size: Width of one head, which is what Megatron's attention passes.
            heads: Over all ranks.
            eps: Added to the mean square.
            pg_collection: Process groups; null means Megatron's.
        """
        super().__init__()
        self.group = parallel_state.get_tensor_model_parallel_group() if pg_collection is None else pg_collection.tp
        self.width, self.eps = heads * hidden_size, eps
        shape = self.width // self.group.size()
        self.weight = torch.nn.Parameter(torch.ones(shape, device=_device(config), dtype=config.params_dtype))
        # What keeps the weight out of every reduction over tensor parallelism, and in the gradient norm of each rank.
        set_tensor_model_parallel_attributes(self.weight, True, 0, 1)

    def forward(self, heads: torch.Tensor) -> torch.Tensor:
        """Normalise, in float32."""
        exact = heads.float()
        squares = exact.square().sum((-2, -1), keepdim=True)
        if self.group.size() > 1:
            squares = _SumOverRanks.apply(squares, self.group)
        normal = (exact * torch.rsqrt(squares / self.width + self.eps)).type_as(heads)
        return normal * self.weight.view(heads.shape[-2:])

    def sharded_state_dict(
        self, prefix: str = "", sharded_offsets: tuple[Any, ...] = (), metadata: dict[str, Any] | None = None
    ) -> ShardedStateDict:
        """For checkpoints that load in any layout."""
        return make_sharded_tensors_for_checkpoint(
            self.state_dict(prefix="", keep_vars=True),
            prefix,
            {"weight": 0},
            sharded_offsets,
            tp_group=self.group,
            dp_cp_group=ensure_metadata_has_dp_cp_group(metadata)["dp_cp_group"],
        )


class _SumOverRanks(torch.autograd.Function):
    """The sum of a tensor over a group. Every rank uses it for its own output, so the gradients are summed too."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
        ctx.group = group
        total = tensor.clone()
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=ctx.group)
        return total, None


def _device(config: TransformerConfig) -> Any:
    return torch.device("cpu") if config.use_cpu_initialization else torch.cuda.current_device()
