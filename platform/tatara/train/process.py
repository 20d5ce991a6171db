"""This process as a rank: its device, its process groups, its random state."""

import datetime

import torch
import torch.distributed as dist
from megatron.core import parallel_state, tensor_parallel

from tatara.train import cpu_adapter
from tatara.train.layout import ParallelLayout

COLLECTIVE_TIMEOUT = datetime.timedelta(hours=2)
"""How long a rank waits in a collective before torch gives up. The hang guard is faster, and says more."""


def start(layout: ParallelLayout, seed: int, gpu: int = 0) -> torch.device:
    """Initialise ``torch.distributed`` from the environment, unless that has been done, and Megatron's groups.

    Args:
        layout: Checked against the number of ranks.
        seed: Of Megatron's random state, for dropout where there is any.
        gpu: Which of the GPUs that this process sees to use, where there are GPUs.

    Raises:
        LayoutError: The layout does not fit the number of ranks.
    """
    on_cpu = cpu_adapter.install()
    if not on_cpu:
        torch.cuda.set_device(gpu)
    if not dist.is_initialized():
        dist.init_process_group("gloo" if on_cpu else "nccl", timeout=COLLECTIVE_TIMEOUT)
    layout.resolve(dist.get_world_size())
    if not parallel_state.model_parallel_is_initialized():
        parallel_state.initialize_model_parallel(
            layout.tp,
            layout.pp,
            virtual_pipeline_model_parallel_size=layout.virtual_stages if layout.virtual_stages > 1 else None,
            context_parallel_size=layout.cp,
            expert_model_parallel_size=layout.ep,
            expert_tensor_parallel_size=1,
            distributed_timeout_minutes=int(COLLECTIVE_TIMEOUT.total_seconds() // 60),
        )
    tensor_parallel.model_parallel_cuda_manual_seed(seed)
    return torch.device("cpu") if on_cpu else torch.device("cuda", gpu)
