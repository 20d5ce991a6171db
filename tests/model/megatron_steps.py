"""Training steps, checkpoints and builds that the ranks of the model tests do."""

from typing import Any

import torch
import torch.distributed as dist
from megatron.core import dist_checkpointing, parallel_state
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig
from megatron.core.pipeline_parallel import get_forward_backward_func
from megatron.core.transformer.moe import router
from torch._dynamo.utils import counters

from model.megatron_cases import SEQUENCE, chunks, initialise, layout, packed_batch, small_spec, token_losses
from tatara.model.compute import ComputeSettings
from tatara.model.layers import block_spec
from tatara.model.megatron import (
    build_model,
    full_shape,
    global_buffers,
    global_parameters,
    is_sharded,
    shard,
    transformer_config,
    unshard,
)
from tatara.model.spec import ModelSpec

PLAIN = ComputeSettings()


def step_gradients(
    spec: ModelSpec, sizes: Any, compute: ComputeSettings = PLAIN, rows: int = 4
) -> tuple[float, dict[str, torch.Tensor]]:
    """Mean loss of a batch of single-row micro-batches, and the full gradient of every parameter of this rank."""
    total, wrapped = _step(spec, sizes, compute, rows)
    dist.all_reduce(total, group=parallel_state.get_data_parallel_group(with_context_parallel=True))
    return float(total) / (rows * SEQUENCE), {name: _whole(p) for name, p in global_parameters(wrapped)}


def _step(spec: ModelSpec, sizes: Any, compute: ComputeSettings, rows: int) -> tuple[torch.Tensor, list[Any]]:
    """Summed loss and model after a forward and backward pass, by Megatron's own schedule and gradient reduction."""
    initialise(sizes)
    config = transformer_config(spec, sizes, compute)
    wrapped = [
        DistributedDataParallel(config, DistributedDataParallelConfig(), chunk, disable_bucketing=True)
        for chunk in build_model(spec, config, compute=compute)
    ]
    config.no_sync_func = [chunk.no_sync for chunk in wrapped] if len(wrapped) > 1 else wrapped[0].no_sync
    mine = parallel_state.get_data_parallel_rank()
    share = rows // parallel_state.get_data_parallel_world_size()
    batch = packed_batch(spec, rows)
    micro = [{k: v[row : row + 1] for k, v in batch.items()} for row in range(mine * share, (mine + 1) * share)]
    reduced = get_forward_backward_func()(
        forward_step_func=_forward_step,
        data_iterator=[iter(micro) for _ in wrapped] if len(wrapped) > 1 else iter(micro),
        model=wrapped,
        num_microbatches=share,
        seq_length=SEQUENCE,
        micro_batch_size=1,
        forward_only=False,
    )
    return torch.stack([part["sum"] for part in reduced]).sum() if reduced else torch.zeros(()), wrapped


def _forward_step(batches: Any, model: Any) -> tuple[torch.Tensor, Any]:
    def loss(losses: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
        total = losses.float().sum()
        return total, torch.tensor(losses.numel(), dtype=torch.int), {"sum": total.detach()}

    return token_losses(model, next(batches)), loss


def _whole(parameter: torch.nn.Parameter) -> torch.Tensor:
    if not is_sharded(parameter):
        return parameter.main_grad
    group = parallel_state.get_tensor_model_parallel_group()
    parts = [torch.empty_like(parameter.main_grad) for _ in range(group.size())]
    dist.all_gather(parts, parameter.main_grad.contiguous(), group=group)
    return unshard(parts, parameter)


def names(spec: ModelSpec, sizes: Any) -> dict[str, torch.Tensor]:
    """This rank's part of the initial weights."""
    return {name: parameter.detach() for name, parameter in global_parameters(chunks(spec, sizes))}


def save(spec: ModelSpec, sizes: Any, directory: str) -> dict[str, torch.Tensor]:
    """Write a sharded checkpoint of weights that are not the initial ones; returns this rank's, put together."""
    (model,) = chunks(spec, sizes)
    with torch.no_grad():
        for name, parameter in global_parameters([model]):
            generator = torch.Generator().manual_seed(len(name))
            parameter.copy_(shard(torch.rand(full_shape(parameter), generator=generator), parameter))
    dist_checkpointing.save(model.sharded_state_dict(), directory)
    return {name: p.detach() for name, p in global_parameters([model])}


def load(spec: ModelSpec, sizes: Any, directory: str) -> dict[str, torch.Tensor]:
    """This rank's weights after loading such a checkpoint."""
    (model,) = chunks(spec, sizes)
    model.load_state_dict(dist_checkpointing.load(model.sharded_state_dict(), directory))
    return {name: p.detach() for name, p in global_parameters([model])}


def bias_after_a_step(
    spec: ModelSpec, sizes: Any, compute: ComputeSettings = PLAIN
) -> tuple[torch.Tensor, torch.Tensor]:
    """The bias of the last layer's router after one step, and how often each expert was chosen in it."""
    counts: list[torch.Tensor] = []
    originals = router.TopKRouter.routing

    def routing(self: Any, logits: torch.Tensor, padding_mask: Any = None) -> Any:
        probabilities, chosen = originals(self, logits, padding_mask)
        if self.layer_number == spec.num_layers:
            counts.append(chosen.sum(0))
        return probabilities, chosen

    router.TopKRouter.routing = routing
    _, wrapped = _step(spec, sizes, compute, 4)
    total = torch.stack(counts).sum(0)
    dist.all_reduce(total)
    return dict(global_buffers(wrapped))[f"decoder.layers.{spec.num_layers - 1}.mlp.router.expert_bias"], total


def balancing_gradients(spec: ModelSpec) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradient that a balancing loss leaves in the last layer's router, ours and that of the published formula."""
    weight = f"decoder.layers.{spec.num_layers - 1}.mlp.router.weight"
    inputs: list[torch.Tensor] = []
    original = router.TopKRouter.gating

    def gating(self: Any, hidden: torch.Tensor) -> torch.Tensor:
        if self.layer_number == spec.num_layers:
            inputs.append(hidden.detach())
        return original(self, hidden)

    router.TopKRouter.gating = gating
    with_loss = step_gradients(spec, layout())[1][weight]
    parallel_state.destroy_model_parallel()
    plain = spec.moe.model_copy(update={"auxiliary_coefficient": 0.0, "z_loss_coefficient": 0.0})
    without = step_gradients(spec.model_copy(update={"moe": plain}), layout())[1][weight]
    return with_loss - without, _balancing_gradient(inputs[: len(inputs) // 2], weight, spec)


def _balancing_gradient(inputs: list[torch.Tensor], weight: str, spec: ModelSpec) -> torch.Tensor:
    """Mean over micro-batches of arXiv:2101.03961 equations 4 to 6 and arXiv:2202.08906 equation 5."""
    parallel_state.destroy_model_parallel()
    moe = spec.moe
    initial = dict(global_parameters(chunks(spec, layout())))[weight].detach().double().requires_grad_()
    total = torch.zeros((), dtype=torch.float64)
    for hidden in inputs:
        logits = hidden.double().flatten(0, 1) @ initial.t()
        probabilities = logits.softmax(-1)
        chosen = torch.zeros_like(logits).scatter(1, logits.topk(moe.top_k).indices, 1.0)
        shares = chosen.mean(0) / moe.top_k
        total = total + moe.auxiliary_coefficient * moe.num_experts * (shares * probabilities.mean(0)).sum()
        total = total + moe.z_loss_coefficient * logits.logsumexp(-1).square().mean()
    (gradient,) = torch.autograd.grad(total / len(inputs), initial)
    return gradient.float()


def compiled_gradients(spec: ModelSpec) -> tuple[tuple[float, dict[str, torch.Tensor]], int]:
    """What `step_gradients` measures with compiled layers, and how many graphs were compiled for it."""
    measured = step_gradients(spec, layout(), ComputeSettings(compile=True))
    return measured, counters["stats"]["unique_graphs"]


def attention_options(compute: ComputeSettings) -> dict[str, Any]:
    """What the core attention of a layer is built with, besides what Megatron passes."""
    spec = small_spec(num_layers=1)
    initialise(layout())
    block = block_spec(spec, transformer_config(spec, layout(), compute), compute, None)
    return block.layer_specs[0].submodules.self_attention.submodules.core_attention.params
