"""A few steps of bare Megatron training under the CPU adapter, for its tests."""

import warnings
import zlib
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import dist_checkpointing, parallel_state
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig
from megatron.core.optimizer import OptimizerConfig, get_megatron_optimizer
from megatron.core.pipeline_parallel import get_forward_backward_func
from megatron.core.tensor_parallel import model_parallel_cuda_manual_seed
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules

from model.megatron_cases import SEQUENCE, initialise, layout, packed_batch, small_spec
from tatara.model.attention import context_slice, document_mask
from tatara.model.megatron import build_model, transformer_config

ROWS = 4
METADATA = {"distrib_optim_sharding_type": "fully_reshardable", "chained_optim_avoid_prefix": True}


class Trainer:
    """Megatron model, data-parallel wrapper, optimizer and pipeline schedule in one layout."""

    def __init__(self, sizes: Any, distributed_optimizer: bool = True, weight_decay: float = 0.1, **spec: Any) -> None:
        warnings.filterwarnings("ignore")
        self.spec = small_spec(**spec)
        initialise(sizes)
        config = transformer_config(self.spec, sizes)
        wrapping = DistributedDataParallelConfig(
            use_distributed_optimizer=distributed_optimizer, grad_reduce_in_fp32=True
        )
        self.model = [
            DistributedDataParallel(config, wrapping, chunk, disable_bucketing=index > 0)
            for index, chunk in enumerate(build_model(self.spec, config))
        ]
        self.optimizer = get_megatron_optimizer(
            OptimizerConfig(
                optimizer="adam",
                lr=1e-3,
                weight_decay=weight_decay,
                clip_grad=0.5,
                bf16=self.spec.dtype == "bfloat16",
                params_dtype=getattr(torch, self.spec.dtype),
                use_distributed_optimizer=distributed_optimizer,
            ),
            self.model,
        )
        config.no_sync_func = [part.no_sync for part in self.model] if len(self.model) > 1 else self.model[0].no_sync
        config.grad_scale_func = self.optimizer.scale_loss

    def step(self) -> tuple[float, float]:
        """One step on a fixed batch; returns its loss and gradient norm."""
        for part in self.model:
            part.zero_grad_buffer()
        self.optimizer.zero_grad()
        iterators = [iter(self._rows()) for _ in self.model]
        reduced = get_forward_backward_func()(
            forward_step_func=self._forward,
            data_iterator=iterators if len(self.model) > 1 else iterators[0],
            model=self.model,
            num_microbatches=len(self._rows()),
            seq_length=SEQUENCE,
            micro_batch_size=1,
            forward_only=False,
        )
        _, norm, _ = self.optimizer.step()
        total = torch.zeros(2)
        if parallel_state.is_pipeline_last_stage():
            total = torch.stack([part["sum"] for part in reduced]).sum(0)
            dist.all_reduce(total, group=parallel_state.get_data_parallel_group(with_context_parallel=True))
        source = parallel_state.get_pipeline_model_parallel_last_rank()
        dist.broadcast(total, src=source, group=parallel_state.get_pipeline_model_parallel_group())
        return (total[0] / total[1]).item(), float(norm)

    def _rows(self) -> list[dict[str, torch.Tensor]]:
        batch = packed_batch(self.spec, ROWS)
        batch["loss_weights"] = (batch["document_ids"] >= 0).float()
        rank, size = parallel_state.get_data_parallel_rank(), parallel_state.get_data_parallel_world_size()
        return [{name: value[row : row + 1] for name, value in batch.items()} for row in range(rank, ROWS, size)]

    def _forward(self, iterator: Any, model: Any) -> Any:
        row = next(iterator)
        size = parallel_state.get_context_parallel_world_size()
        rank = parallel_state.get_context_parallel_rank()
        mask = document_mask(row["document_ids"], size, rank, getattr(torch, self.spec.dtype))
        tokens, positions, targets, weights = (
            context_slice(row[name], size, rank).contiguous()
            for name in ("tokens", "position_ids", "targets", "loss_weights")
        )

        def loss(losses: torch.Tensor) -> Any:
            total, count = (losses.float() * weights).sum(), weights.sum()
            return total, count.to(torch.int), {"sum": torch.stack([total.detach(), count])}

        return model(tokens, positions, mask, labels=targets), loss

    def state(self, loading: bool) -> dict[str, Any]:
        models = {
            "model" if len(self.model) == 1 else f"model{index}": part.module.sharded_state_dict(metadata=METADATA)
            for index, part in enumerate(self.model)
        }
        optimizer = self.optimizer.sharded_state_dict(
            dict(models) if len(self.model) > 1 else models["model"], is_loading=loading, metadata=METADATA
        )
        return {**models, "optimizer": optimizer}

    def save(self, directory: Path) -> None:
        if dist.get_rank() == 0:
            directory.mkdir()
        dist.barrier()
        dist_checkpointing.save(self.state(loading=False), str(directory), ("torch_dist", 1), content_metadata=METADATA)

    def load(self, directory: Path) -> None:
        state = dist_checkpointing.load(self.state(loading=True), str(directory), ("torch_dist", 1))
        for index, part in enumerate(self.model):
            part.module.load_state_dict(state["model" if len(self.model) == 1 else f"model{index}"])
        self.optimizer.load_state_dict(state["optimizer"])


def train(sizes: Any, steps: int = 3, **options: Any) -> list[tuple[float, float]]:
    trainer = Trainer(sizes, **options)
    return [trainer.step() for _ in range(steps)]


def train_and_save(sizes: Any, directory: Path, **options: Any) -> list[tuple[float, float]]:
    """Two steps, a checkpoint, two more steps; returns the last two."""
    trainer = Trainer(sizes, **options)
    for _ in range(2):
        trainer.step()
    trainer.save(directory)
    return [trainer.step() for _ in range(2)]


def load_and_train(sizes: Any, directory: Path, **options: Any) -> list[tuple[float, float]]:
    trainer = Trainer(sizes, **options)
    trainer.load(directory)
    return [trainer.step() for _ in range(2)]


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


def mixture_losses(ep: int) -> torch.Tensor:
    """Per-token losses and the gradient norm of the routers of a mixture of four experts, two per token."""
    from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
    from megatron.core.models.gpt.gpt_model import GPTModel

    from tatara.model.attention import DotProductAttention
    from tatara.model.megatron import RMSNorm

    parallel_state.initialize_model_parallel(expert_model_parallel_size=ep, expert_tensor_parallel_size=1)
    model_parallel_cuda_manual_seed(1)
    spec = small_spec(num_layers=2)
    experts = {
        "num_moe_experts": 4,
        "moe_router_topk": 2,
        "moe_ffn_hidden_size": 64,
        "moe_router_load_balancing_type": "none",
        "moe_token_dispatcher_type": "alltoall",
        "expert_model_parallel_size": ep,
        "expert_tensor_parallel_size": 1,
    }
    layer = get_gpt_layer_local_spec(num_experts=4, normalization="RMSNorm")
    layer.submodules.input_layernorm = layer.submodules.pre_mlp_layernorm = RMSNorm
    layer.submodules.self_attention.submodules.core_attention = DotProductAttention
    block = TransformerBlockSubmodules(layer_specs=[layer] * 2, layer_norm=RMSNorm)
    model = GPTModel(
        transformer_config(spec, layout(), **experts), block, 512, SEQUENCE, position_embedding_type="rope"
    )
    local = 4 // ep
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            head, _, tail = name.partition("local_experts.")
            if tail:
                number, _, rest = tail.partition(".")
                name = f"{head}{int(number) + local * parallel_state.get_expert_model_parallel_rank()}.{rest}"
            generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2 + (parameter.dim() == 1))
    batch = packed_batch(spec)
    losses = model(
        batch["tokens"], batch["position_ids"], document_mask(batch["document_ids"]), labels=batch["targets"]
    )
    losses.sum().backward()
    routers = [parameter.grad.norm() for name, parameter in model.named_parameters() if "router" in name]
    return torch.cat([losses.detach().flatten(), torch.stack(routers)])
