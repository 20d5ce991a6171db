"""One rank of the trainer: Megatron's pipeline schedule, data-parallel wrapper and distributed optimizer."""

import datetime
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state, tensor_parallel
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig
from megatron.core.optimizer import OptimizerConfig, get_megatron_optimizer
from megatron.core.pipeline_parallel import get_forward_backward_func

from tatara.model.attention import context_slice, document_mask
from tatara.model.megatron import build_model, transformer_config
from tatara.model.spec import ModelSpec
from tatara.train import cpu_adapter
from tatara.train.feed.batches import Batch
from tatara.train.layout import ParallelLayout
from tatara.train.optimizer import AdamSettings

# What makes a checkpoint of the distributed optimizer loadable in every other layout. Megatron adds to the mapping that
# it is given, so it gets a copy each time.
SHARDING: Mapping[str, Any] = MappingProxyType(
    {"distrib_optim_sharding_type": "fully_reshardable", "chained_optim_avoid_prefix": True}
)
_COLLECTIVE_TIMEOUT = datetime.timedelta(minutes=10)


@dataclass(frozen=True)
class StepResult:
    """What one training step measured, over all ranks."""

    loss: float
    """Mean loss per target, in nats."""
    tokens: int
    """Targets with a loss weight."""
    gradient_norm: float
    """Global gradient norm before clipping."""


@dataclass(frozen=True)
class LossSum:
    """A summed loss over all ranks."""

    total: float
    """Summed loss, in nats."""
    tokens: int
    """Targets with a loss weight."""

    @property
    def mean(self) -> float:
        """Loss per target, in nats; 0 without targets."""
        return self.total / self.tokens if self.tokens else 0.0


class Engine:
    """A model in a layout, ready to step. Every method is collective over all ranks of the layout.

    Attributes:
        layout: With ``dp`` resolved.
        data_rank: This rank's place in data parallelism: it trains on that slice of each global batch.
        chunks: Megatron's data-parallel wrappers around this rank's part of the model.
        optimizer: Megatron's optimizer.
    """

    def __init__(
        self,
        spec: ModelSpec,
        layout: ParallelLayout,
        adam: AdamSettings,
        *,
        sequence_length: int,
        micro_batch_size: int,
        seed: int = 0,
        gpu: int = 0,
    ) -> None:
        """Set up this process and build its part of the model.

        Initialises ``torch.distributed`` from the environment unless that has been done.

        Args:
            spec: The architecture.
            layout: How ranks share the work; checked against the model and the number of ranks.
            adam: Optimizer settings.
            sequence_length: Positions per row of a batch.
            micro_batch_size: Rows per forward pass.
            seed: Of the initial weights, and of dropout where there is any.
            gpu: Which of the GPUs that this process sees to use, where there are GPUs.

        Raises:
            LayoutError: The layout does not fit.
        """
        layout.check_model(spec)
        self.device = _start_process(layout, seed, gpu)
        self.layout = layout.resolve(dist.get_world_size())
        self.spec, self.sequence_length, self.micro_batch_size = spec, sequence_length, micro_batch_size
        self.data_rank = parallel_state.get_data_parallel_rank()
        self._context = (parallel_state.get_context_parallel_world_size(), parallel_state.get_context_parallel_rank())
        self._dtype = getattr(torch, spec.dtype)
        config = transformer_config(spec, layout)
        on_gpu = self.device.type == "cuda"
        wrapping = DistributedDataParallelConfig(
            use_distributed_optimizer=True, grad_reduce_in_fp32=True, overlap_grad_reduce=on_gpu
        )
        self.chunks = [
            DistributedDataParallel(config, wrapping, chunk, disable_bucketing=index > 0)
            for index, chunk in enumerate(build_model(spec, config, seed=seed))
        ]
        self.optimizer = get_megatron_optimizer(
            OptimizerConfig(
                optimizer="adam",
                lr=adam.learning_rate,
                adam_beta1=adam.beta1,
                adam_beta2=adam.beta2,
                adam_eps=adam.epsilon,
                weight_decay=adam.weight_decay,
                clip_grad=adam.clip_norm,
                bf16=spec.dtype == "bfloat16",
                params_dtype=self._dtype,
                use_distributed_optimizer=True,
            ),
            self.chunks,
        )
        config.no_sync_func = [c.no_sync for c in self.chunks] if len(self.chunks) > 1 else self.chunks[0].no_sync
        config.grad_scale_func = self.optimizer.scale_loss
        self._pass: Callable[..., Any] = get_forward_backward_func()

    def train_step(self, micro_batches: Sequence[Batch], learning_rate: float) -> StepResult:
        """One optimizer step.

        Args:
            micro_batches: This data-parallel rank's share of the global batch, equally many on every rank.
            learning_rate: For this step.
        """
        for chunk in self.chunks:
            chunk.zero_grad_buffer()
        self.optimizer.zero_grad()
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate * group.get("lr_mult", 1.0)
        loss = self._run(micro_batches, forward_only=False)
        _, gradient_norm, _ = self.optimizer.step()
        return StepResult(loss.mean, loss.tokens, float(gradient_norm or 0.0))

    @torch.no_grad()
    def evaluate(self, micro_batches: Sequence[Batch]) -> LossSum:
        """The loss of held-out micro-batches, equally many on every data-parallel rank, without training on them."""
        for chunk in self.chunks:
            chunk.eval()
        loss = self._run(micro_batches, forward_only=True)
        for chunk in self.chunks:
            chunk.train()
        return loss

    def sharded_state(self, loading: bool) -> dict[str, Any]:
        """Megatron's sharded state of model and optimizer, to save or to load into."""
        models = {
            self._key(index): chunk.module.sharded_state_dict(metadata=dict(SHARDING))
            for index, chunk in enumerate(self.chunks)
        }
        weights = dict(models) if len(self.chunks) > 1 else models["model"]
        optimizer = self.optimizer.sharded_state_dict(weights, is_loading=loading, metadata=dict(SHARDING))
        return {**models, "optimizer": optimizer}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take over what was loaded into `sharded_state`."""
        for index, chunk in enumerate(self.chunks):
            chunk.module.load_state_dict(state[self._key(index)])
        self.optimizer.load_state_dict(state["optimizer"])

    def _key(self, chunk: int) -> str:
        return "model" if len(self.chunks) == 1 else f"model{chunk}"

    def _run(self, micro_batches: Sequence[Batch], forward_only: bool) -> LossSum:
        iterators = [iter(micro_batches) for _ in self.chunks]
        reduced = self._pass(
            forward_step_func=self._forward,
            data_iterator=iterators if len(self.chunks) > 1 else iterators[0],
            model=self.chunks,
            num_microbatches=len(micro_batches),
            seq_length=self.sequence_length,
            micro_batch_size=self.micro_batch_size,
            forward_only=forward_only,
        )
        # float64: token counts stay exact, and one message carries both.
        total = torch.zeros(2, dtype=torch.float64, device=self.device)
        if parallel_state.is_pipeline_last_stage(ignore_virtual=True):
            total += torch.stack([part["sum"] for part in reduced]).sum(0)
            dist.all_reduce(total, group=parallel_state.get_data_parallel_group(with_context_parallel=True))
        if self.layout.pp > 1:
            source = parallel_state.get_pipeline_model_parallel_last_rank()
            dist.broadcast(total, source, group=parallel_state.get_pipeline_model_parallel_group())
        summed, tokens = total.tolist()
        return LossSum(summed, int(tokens))

    def _forward(self, batches: Iterator[Batch], model: torch.nn.Module) -> tuple[torch.Tensor, Callable[..., Any]]:
        batch = next(batches)
        size, rank = self._context
        mask = document_mask(self._tensor(batch.document_ids), size, rank, self._dtype)
        tokens, positions, targets, weights = (
            context_slice(self._tensor(array), size, rank).contiguous()
            for array in (batch.tokens, batch.position_ids, batch.targets, batch.loss_weights)
        )

        def loss(losses: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
            total, count = (losses.float() * weights).sum(), (weights != 0).sum()
            return total, count.to(torch.int), {"sum": torch.stack([total.detach().double(), count.double()])}

        return model(tokens, positions, mask, labels=targets), loss

    def _tensor(self, array: Any) -> torch.Tensor:
        return torch.from_numpy(array).to(self.device, non_blocking=True)


def _start_process(layout: ParallelLayout, seed: int, gpu: int) -> torch.device:
    on_cpu = cpu_adapter.install()
    if not on_cpu:
        torch.cuda.set_device(gpu)
    if not dist.is_initialized():
        dist.init_process_group("gloo" if on_cpu else "nccl", timeout=_COLLECTIVE_TIMEOUT)
    layout.resolve(dist.get_world_size())
    if not parallel_state.model_parallel_is_initialized():
        parallel_state.initialize_model_parallel(
            layout.tp,
            layout.pp,
            virtual_pipeline_model_parallel_size=layout.virtual_stages if layout.virtual_stages > 1 else None,
            context_parallel_size=layout.cp,
            expert_model_parallel_size=layout.ep,
            expert_tensor_parallel_size=1,
            distributed_timeout_minutes=int(_COLLECTIVE_TIMEOUT.total_seconds() // 60),
        )
    tensor_parallel.model_parallel_cuda_manual_seed(seed)
    return torch.device("cpu") if on_cpu else torch.device("cuda", gpu)
