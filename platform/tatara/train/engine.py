"""One rank of the trainer: Megatron's pipeline schedule, data-parallel wrapper and distributed optimizer."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig, finalize_model_grads
from megatron.core.optimizer import OptimizerConfig, get_megatron_optimizer
from megatron.core.optimizer import optimizer as megatron_optimizer
from megatron.core.pipeline_parallel import get_forward_backward_func

from tatara.model.attention import context_slice, document_mask, zigzag_positions
from tatara.model.compute import ComputeSettings
from tatara.model.megatron import build_model, global_parameters, transformer_config
from tatara.model.megatron_head import sampled_at
from tatara.model.spec import ModelSpec
from tatara.train import process
from tatara.train.feed.batches import Batch, Float32
from tatara.train.feed.policy_batch import PolicyBatch
from tatara.train.layout import ParallelLayout
from tatara.train.measured import LossSum, StepResult, add_up, tell_all_stages
from tatara.train.optimizer import AdamSettings
from tatara.train.policy import PolicyLoss
from tatara.train.policy_objective import PolicyTerms, policy_objective
from tatara.train.treatment import treat


class Engine:
    """A model in a layout, ready to step. Every method is collective over all ranks of the layout.

    Attributes:
        layout: With ``dp`` resolved.
        dtype: Of parameters and activations.
        data_rank: This rank's place in data parallelism: it trains on that slice of each global batch.
        chunks: Megatron's data-parallel wrappers around this rank's part of the model.
        optimizer: Megatron's optimizer.
        waiting: Makes a context around what waits for other ranks; whoever measures replaces it.
    """

    def __init__(
        self,
        spec: ModelSpec,
        layout: ParallelLayout,
        adam: AdamSettings,
        *,
        micro_batch_size: int,
        seed: int = 0,
        gpu: int = 0,
        compute: ComputeSettings = ComputeSettings(),  # noqa: B008 - frozen
    ) -> None:
        """Set up this process and build its part of the model.

        Initialises ``torch.distributed`` from the environment unless that has been done.

        Args:
            spec: The architecture.
            layout: How ranks share the work; checked against the model and the number of ranks.
            adam: Optimizer settings.
            micro_batch_size: Rows per forward pass.
            seed: Of the initial weights, and of dropout where there is any.
            gpu: Which of the GPUs that this process sees to use, where there are GPUs.
            compute: Kernels, recomputation and precision of matrix products.

        Raises:
            LayoutError: The layout does not fit.
        """
        layout.check_model(spec)
        self.device = process.start(layout, seed, gpu)
        self.layout = layout.resolve(dist.get_world_size())
        self.spec, self.adam, self.micro_batch_size = spec, adam, micro_batch_size
        self.data_rank = parallel_state.get_data_parallel_rank()
        self._context = (parallel_state.get_context_parallel_world_size(), parallel_state.get_context_parallel_rank())
        self.dtype = getattr(torch, spec.dtype)
        config = transformer_config(spec, layout, compute)
        on_gpu = self.device.type == "cuda"
        wrapping = DistributedDataParallelConfig(
            use_distributed_optimizer=True, grad_reduce_in_fp32=True, overlap_grad_reduce=on_gpu
        )
        models = build_model(spec, config, seed=seed, compute=compute)
        overrides = treat(models, adam)
        self.chunks = [
            DistributedDataParallel(config, wrapping, model, disable_bucketing=index > 0)
            for index, model in enumerate(models)
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
                params_dtype=self.dtype,
                decoupled_weight_decay=adam.decoupled,
                use_distributed_optimizer=True,
            ),
            self.chunks,
            overrides,
        )
        _fuse(self.optimizer)
        config.no_sync_func = [c.no_sync for c in self.chunks] if len(self.chunks) > 1 else self.chunks[0].no_sync
        config.grad_scale_func = self.optimizer.scale_loss
        self.waiting: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext
        config.finalize_model_grads_func = self._finalise_gradients
        self._pass: Callable[..., Any] = get_forward_backward_func()

    def train_step(
        self,
        micro_batches: Sequence[Batch],
        learning_rate: float,
        *,
        weight_decay: float | None = None,
        approve: Callable[[float, float], bool] | None = None,
        policy: PolicyLoss | None = None,
    ) -> StepResult:
        """One optimizer step.

        Args:
            micro_batches: This data-parallel rank's share of the global batch, equally many on every rank and all of
                one sequence length; each a `PolicyBatch` where there is a policy loss.
            learning_rate: For this step.
            weight_decay: For this step; null means the optimizer settings'.
            approve: Given loss and gradient norm before the optimizer moves anything, the same on every rank, says
                whether it shall.
            policy: The loss of a policy gradient; null is the cross-entropy.
        """
        for chunk in self.chunks:
            chunk.zero_grad_buffer()
        self.optimizer.zero_grad()
        decay = self.adam.weight_decay if weight_decay is None else weight_decay
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate * group.get("lr_mult", 1.0)
            # Megatron leaves it to its own scheduler to keep the decay off biases and norms.
            group["weight_decay"] = decay * group.get("wd_mult", 1.0)
        biases = [bias.clone() for bias in self._expert_biases()]
        with contextlib.nullcontext() if policy is None else sampled_at(self.chunks, policy.temperature):
            loss = self._run(micro_batches, forward_only=False, policy=policy)
        self.optimizer.prepare_grads()
        with self.waiting():
            gradient_norm = float(self.optimizer.get_grad_norm() or 0.0)
        applied = approve is None or approve(loss.mean, gradient_norm)
        if applied:
            self._clip(gradient_norm)
            self.optimizer.step_with_ready_grads()
        else:
            for bias, before in zip(self._expert_biases(), biases, strict=True):
                bias.copy_(before)
        return StepResult(loss.mean, loss.tokens, gradient_norm, loss.load, applied, loss.figures)

    def _clip(self, gradient_norm: float) -> None:
        if self.adam.clip_norm <= 0:
            return
        for optimizer in self.optimizer.chained_optimizers:
            parameters = [] if getattr(optimizer, "is_stub_optimizer", False) else optimizer.get_parameters()
            if parameters:
                # By way of the module, where the CPU adapter has put its own.
                megatron_optimizer.clip_grad_by_total_norm_fp32(
                    parameters, max_norm=self.adam.clip_norm, total_norm=gradient_norm
                )

    def not_finite(self) -> list[str]:
        """Names of parameters that hold a value which is not a finite number, over all ranks."""
        named = global_parameters(self.chunks)
        found: list[list[str]] = [[] for _ in range(dist.get_world_size())]
        dist.all_gather_object(found, [name for name, value in named if not bool(value.isfinite().all())])
        return sorted({name for names in found for name in names})

    def _finalise_gradients(self, *args: Any, **kwargs: Any) -> None:
        with self.waiting():
            finalize_model_grads(*args, **kwargs)

    def _expert_biases(self) -> list[torch.Tensor]:
        """What Megatron moves, besides the parameters, when it finalises the gradients."""
        named = (item for chunk in self.chunks for item in chunk.named_buffers())
        return [buffer for name, buffer in named if name.endswith("router.expert_bias") and buffer is not None]

    def evaluate(self, micro_batches: Sequence[Batch]) -> LossSum:
        """The loss of held-out micro-batches, equally many on every data-parallel rank, without training on them."""
        with self._evaluating():
            return self._run(micro_batches, forward_only=True)

    def token_logprobs(self, micro_batches: Sequence[Batch], temperature: float = 1.0) -> list[Float32]:
        """Log-probability of every target under the present weights, in nats; nothing is trained.

        Args:
            micro_batches: As in `train_step`, of this data-parallel rank.
            temperature: The logits are divided by it.

        Returns:
            For each micro-batch an array like its ``targets``, whole on every rank of the replica.
        """
        with self._evaluating(), sampled_at(self.chunks, temperature):
            parts = self._pass_over(micro_batches, self._forward_logprobs, forward_only=True)
        size, rank = self._context
        shape = (len(micro_batches), *micro_batches[0].tokens.shape)
        whole = torch.zeros(shape, dtype=torch.float32, device=self.device)
        with self.waiting():
            if parallel_state.is_pipeline_last_stage(ignore_virtual=True):
                mine = zigzag_positions(shape[-1], size, rank).to(self.device)
                whole[..., mine] = torch.stack([part["logprobs"] for part in parts])
                if size > 1:
                    # Every position is zero on all ranks but one.
                    dist.all_reduce(whole, group=parallel_state.get_context_parallel_group())
            tell_all_stages(whole)
        return list(whole.cpu().numpy())

    @contextlib.contextmanager
    def _evaluating(self) -> Iterator[None]:
        for chunk in self.chunks:
            chunk.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            for chunk in self.chunks:
                chunk.train()

    def _run(self, micro_batches: Sequence[Batch], forward_only: bool, policy: PolicyLoss | None = None) -> LossSum:
        forward = functools.partial(self._forward, policy=policy)
        reduced = self._pass_over(micro_batches, forward, forward_only)
        with self.waiting():
            return add_up(reduced, micro_batches, self.device, policy=policy is not None)

    def _pass_over(self, micro_batches: Sequence[Batch], forward: Callable[..., Any], forward_only: bool) -> Any:
        """Run the pipeline; what the loss functions of the last stage measured, one mapping per micro-batch."""
        iterators = [iter(micro_batches) for _ in self.chunks]
        return self._pass(
            forward_step_func=forward,
            data_iterator=iterators if len(self.chunks) > 1 else iterators[0],
            model=self.chunks,
            num_microbatches=len(micro_batches),
            seq_length=micro_batches[0].tokens.shape[1],
            micro_batch_size=self.micro_batch_size,
            forward_only=forward_only,
        )

    def _forward(
        self, batches: Iterator[Batch], model: torch.nn.Module, policy: PolicyLoss | None = None
    ) -> tuple[torch.Tensor, Callable[..., Any]]:
        batch = next(batches)
        weights = self._part(batch.loss_weights)

        def loss(losses: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
            measured: Mapping[str, torch.Tensor] = {}
            if policy is not None:
                assert isinstance(batch, PolicyBatch)
                group = parallel_state.get_context_parallel_group() if self._context[0] > 1 else None
                terms = PolicyTerms.of(batch, self._part, group)
                losses, measured = policy_objective(-losses[0], losses[1].detach(), terms, policy)
            total, count = (losses.float() * weights).sum(), (weights != 0).sum()
            summed = torch.stack([total.detach().double(), count.double()])
            return total, count.to(torch.int), {"sum": summed, **measured}

        return self._said_of(batch, model), loss

    def _forward_logprobs(
        self, batches: Iterator[Batch], model: torch.nn.Module
    ) -> tuple[torch.Tensor, Callable[..., Any]]:
        def keep(losses: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
            return losses.sum(), torch.ones((), dtype=torch.int, device=self.device), {"logprobs": -losses[0].float()}

        return self._said_of(next(batches), model), keep

    def _said_of(self, batch: Batch, model: torch.nn.Module) -> torch.Tensor:
        """What the model says of a batch: on the last stage, the losses of its targets."""
        # From ids on the host: where documents end must be known there, and asking a GPU would wait for it.
        mask = document_mask(torch.from_numpy(batch.document_ids))
        if mask is not None:
            mask = mask.to(self.device, non_blocking=True)
        tokens, positions, targets = (self._part(array) for array in (batch.tokens, batch.position_ids, batch.targets))
        said: torch.Tensor = model(tokens, positions, mask, labels=targets)
        return said

    def _part(self, array: Any) -> torch.Tensor:
        """This context-parallel rank's part of whole rows."""
        return context_slice(self._tensor(array), *self._context).contiguous()

    def _tensor(self, array: Any) -> torch.Tensor:
        return torch.from_numpy(array).to(self.device, non_blocking=True)


def _fuse(optimizer: Any) -> None:
    """Have torch's Adam, where it is what Megatron found, update each parameter in one pass."""
    for part in optimizer.chained_optimizers:
        inner = getattr(part, "optimizer", None)
        if isinstance(inner, torch.optim.Adam | torch.optim.AdamW):
            for group in inner.param_groups:
                group.update(fused=True, foreach=False)
