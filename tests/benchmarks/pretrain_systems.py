"""Systems that `bench_pretrain` compares: each trains the same architecture on the same batches in the same type."""

import argparse
import contextlib
import functools
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

RANKS = 2


class Clock:
    """Seconds spent in functions, by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, with the time it takes added up."""

        def call(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds[name] += time.perf_counter() - start

        return call


def batches(options: argparse.Namespace, step: int) -> dict[str, Any]:
    """One global batch of random tokens; documents of about a third of the sequence where rows are packed.

    With ``options.tokens``, the directory of a tokens artifact, that run's own batch of the step instead.
    """
    import numpy as np

    if getattr(options, "tokens", None):
        batch = _feed(options.tokens, options.rows, options.seed).batch(step, 0, 1, options.rows)[0]
        return {"tokens": batch.tokens, "targets": batch.targets, "document_ids": batch.document_ids}
    generator = np.random.default_rng(step)
    tokens = generator.integers(0, options.vocabulary, (options.rows, options.sequence + 1))
    ids = np.zeros((options.rows, options.sequence), dtype=np.int64)
    if options.packed:
        ids = (generator.random(ids.shape) < 3.0 / options.sequence).cumsum(1)
    return {
        "tokens": np.ascontiguousarray(tokens[:, :-1]),
        "targets": np.ascontiguousarray(tokens[:, 1:]),
        "document_ids": ids,
    }


@functools.cache
def _feed(directory: str, rows: int, seed: int) -> Any:
    from pathlib import Path

    from tatara.train.feed.planning import training_plan
    from tatara.train.feed.reader import Feed
    from tatara.train.feed.sources import open_sources, source_sizes

    sources = open_sources({"tokens": Path(directory)})
    plan = training_plan(source_sizes(sources), global_batch_size=rows, steps=1_000_000, seed=seed)
    return Feed(sources, plan)


def model_spec(options: argparse.Namespace) -> Any:
    from tatara.model.spec import ModelSpec

    return ModelSpec(
        vocab_size=options.vocabulary,
        num_layers=options.layers,
        hidden_size=options.hidden,
        ffn_hidden_size=options.hidden * 3,
        max_position_embeddings=options.sequence,
        dtype=options.dtype,
    )


def ours(options: argparse.Namespace, rank: int, directory: str) -> tuple[Callable[[int], float], Clock]:
    """A step of the trainer's engine on one of two data-parallel ranks."""
    import numpy as np
    import torch
    import torch.distributed as dist

    from tatara.model.megatron import unwrap
    from tatara.train.engine import Engine
    from tatara.train.feed.batches import Batch
    from tatara.train.layout import ParallelLayout
    from tatara.train.optimizer import AdamSettings

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{directory}/init", rank=rank, world_size=RANKS)
    share = options.rows // RANKS
    micro = options.micro or share
    engine = Engine(
        model_spec(options),
        ParallelLayout(),
        AdamSettings(weight_decay=0.1, clip_norm=1.0),
        micro_batch_size=micro,
    )
    clock = Clock()
    (chunk,) = engine.chunks
    chunk.forward = clock.timed("forward", chunk.forward)
    config = unwrap(chunk).config
    config.finalize_model_grads_func = clock.timed("gradient reduction", config.finalize_model_grads_func)
    engine.optimizer.step = clock.timed("optimizer", engine.optimizer.step)

    def step(number: int) -> float:
        arrays = batches(options, number)
        mine = {name: array[rank * share : (rank + 1) * share] for name, array in arrays.items()}
        positions = np.broadcast_to(np.arange(options.sequence), mine["tokens"].shape).copy()
        weights = np.ones(positions.shape, dtype=np.float32)
        batch = Batch(**mine, position_ids=positions, loss_weights=weights)
        return engine.train_step(batch.split(micro), learning_rate=1e-3).loss

    return step, clock


def plain(
    options: argparse.Namespace, rank: int = 0, directory: str = "", ranks: int = 1
) -> tuple[Callable[[int], float], Clock]:
    """A step of a plain loop over transformers' model; with several ranks, in PyTorch's DistributedDataParallel."""
    import torch
    import transformers

    from tatara.model.hf import hf_config

    torch.set_num_threads(options.peer_threads if ranks == 1 else 1)
    spec = model_spec(options)
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**hf_config(spec)))
    model = model.to(getattr(torch, spec.dtype))
    if ranks > 1:
        torch.distributed.init_process_group("gloo", init_method=f"file://{directory}/ddp", rank=rank, world_size=ranks)
        model = torch.nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1)
    clock = Clock()
    share = options.rows // ranks
    micro = (options.micro or options.rows // RANKS) * RANKS // ranks
    total = share * options.sequence

    def forward(rows: dict[str, Any]) -> Any:
        mask = None
        if options.packed:
            same = rows["document_ids"][:, :, None] == rows["document_ids"][:, None, :]
            mask = (same & torch.ones_like(same[0]).tril())[:, None]
        logits = model(rows["tokens"], attention_mask=mask, use_cache=False).logits
        losses = logits.flatten(0, 1).float(), rows["targets"].flatten()
        return torch.nn.functional.cross_entropy(*losses, reduction="sum") / total

    def update() -> None:
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    forward, update = clock.timed("forward", forward), clock.timed("optimizer", update)

    def step(number: int) -> float:
        arrays = {
            name: torch.from_numpy(array[rank * share : (rank + 1) * share])
            for name, array in batches(options, number).items()
        }
        summed = 0.0
        for row in range(0, share, micro):
            last = row + micro >= share
            with model.no_sync() if ranks > 1 and not last else contextlib.nullcontext():
                loss = forward({name: array[row : row + micro] for name, array in arrays.items()})
                loss.backward()
            summed += loss.item()
        update()
        return summed

    return step, clock


def bare(options: argparse.Namespace, rank: int, directory: str) -> tuple[Callable[[int], float], Clock]:
    """A step of a bare Megatron-core loop: the same model in Megatron's schedule and optimizer, and nothing else."""
    import torch
    import torch.distributed as dist
    from megatron.core import parallel_state, tensor_parallel
    from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig
    from megatron.core.optimizer import OptimizerConfig, get_megatron_optimizer
    from megatron.core.pipeline_parallel import get_forward_backward_func

    from tatara.model.attention import document_mask
    from tatara.model.megatron import build_model, transformer_config
    from tatara.train import cpu_adapter
    from tatara.train.layout import ParallelLayout

    torch.set_num_threads(1)
    cpu_adapter.install()
    dist.init_process_group("gloo", init_method=f"file://{directory}/bare", rank=rank, world_size=RANKS)
    parallel_state.initialize_model_parallel()
    tensor_parallel.model_parallel_cuda_manual_seed(0)
    spec = model_spec(options)
    config = transformer_config(spec, ParallelLayout(dp=RANKS))
    (model,) = build_model(spec, config)
    wrapping = DistributedDataParallelConfig(use_distributed_optimizer=True, grad_reduce_in_fp32=True)
    chunk = DistributedDataParallel(config, wrapping, model)
    settings = OptimizerConfig(
        optimizer="adam",
        lr=1e-3,
        adam_beta2=0.95,
        weight_decay=0.1,
        clip_grad=1.0,
        bf16=spec.dtype == "bfloat16",
        params_dtype=getattr(torch, spec.dtype),
        use_distributed_optimizer=True,
    )
    optimizer = get_megatron_optimizer(settings, [chunk])
    config.no_sync_func, config.grad_scale_func = chunk.no_sync, optimizer.scale_loss
    clock = Clock()
    run = clock.timed("forward and backward", get_forward_backward_func())
    update = clock.timed("optimizer", optimizer.step)
    share = options.rows // RANKS
    micro = options.micro or share
    positions = torch.arange(options.sequence).expand(micro, -1)

    def forward(rows: Any, part: Any) -> Any:
        arrays = {name: torch.from_numpy(array) for name, array in next(rows).items()}
        losses = part(arrays["tokens"], positions, document_mask(arrays["document_ids"]), labels=arrays["targets"])
        count = torch.tensor(losses.numel(), dtype=torch.int)
        return losses, lambda out: (out.float().sum(), count, {"sum": out.detach().float().sum()})

    def step(number: int) -> float:
        arrays = batches(options, number)
        first = rank * share
        rows = [
            {name: array[row : row + micro] for name, array in arrays.items()}
            for row in range(first, first + share, micro)
        ]
        chunk.zero_grad_buffer()
        optimizer.zero_grad()
        parts = run(
            forward_step_func=forward,
            data_iterator=iter(rows),
            model=[chunk],
            num_microbatches=len(rows),
            seq_length=options.sequence,
            micro_batch_size=micro,
            forward_only=False,
        )
        total = torch.stack([part["sum"] for part in parts]).sum()
        dist.all_reduce(total)
        update()
        return float(total) / (options.rows * options.sequence)

    return step, clock


def ddp(options: argparse.Namespace, rank: int, directory: str) -> tuple[Callable[[int], float], Clock]:
    """A step of the plain loop in PyTorch's DistributedDataParallel."""
    return plain(options, rank, directory, RANKS)


SYSTEMS: dict[str, tuple[int, Callable[..., tuple[Callable[[int], float], Clock]]]] = {
    "tatara": (RANKS, ours),
    "megatron": (RANKS, bare),
    "ddp": (RANKS, ddp),
    "plain": (1, plain),
}
"""Processes and step of each system."""
