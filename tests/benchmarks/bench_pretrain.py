"""Pretraining throughput: Megatron-core over gloo, two data-parallel ranks of one thread, against a plain loop.

The peer is transformers' LlamaForCausalLM with torch's AdamW in one process of two threads. Both train the same model
on the same batches in the same type, from the same weights, with gradient clipping; runs alternate, and the medians of
their steps are compared.

    python tests/benchmarks/bench_pretrain.py [--packed] [--dtype bfloat16] [--sequence 512] [--rows 8] ...
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path[:0] = [str(Path(__file__).parents[2] / "platform"), str(Path(__file__).parents[1])]

RANKS = 2


class Clock:
    """Seconds spent under each name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[name] += time.perf_counter() - start


def batches(options: argparse.Namespace, step: int) -> dict[str, Any]:
    """One global batch of random tokens; documents of about a third of the sequence where rows are packed."""
    import torch

    generator = torch.Generator().manual_seed(step)
    tokens = torch.randint(0, options.vocabulary, (options.rows, options.sequence + 1), generator=generator)
    ids = torch.zeros(options.rows, options.sequence, dtype=torch.long)
    if options.packed:
        ends = torch.rand(options.rows, options.sequence, generator=generator) < 3.0 / options.sequence
        ids = ends.long().cumsum(1)
    return {"tokens": tokens[:, :-1].contiguous(), "targets": tokens[:, 1:].contiguous(), "document_ids": ids}


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
    """A step of Megatron: local spec, DistributedDataParallel, distributed optimizer, pipeline schedule."""
    import torch
    import torch.distributed as dist

    from tatara.train import cpu_adapter

    torch.set_num_threads(1)
    cpu_adapter.install()
    from megatron.core import parallel_state, tensor_parallel
    from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig
    from megatron.core.optimizer import OptimizerConfig, get_megatron_optimizer
    from megatron.core.pipeline_parallel import get_forward_backward_func

    from tatara.model.attention import document_mask
    from tatara.model.megatron import build_model, transformer_config

    dist.init_process_group("gloo", init_method=f"file://{directory}/init", rank=rank, world_size=RANKS)
    parallel_state.initialize_model_parallel(1, 1)
    tensor_parallel.model_parallel_cuda_manual_seed(1)
    spec = model_spec(options)
    sizes = SimpleNamespace(tp=1, pp=1, cp=1, virtual_stages=1, sequence_parallel=False)
    config = transformer_config(spec, sizes)
    wrapping = DistributedDataParallelConfig(use_distributed_optimizer=True, grad_reduce_in_fp32=True)
    model = [DistributedDataParallel(config, wrapping, build_model(spec, config)[0])]
    dtype = getattr(torch, spec.dtype)
    optimizer = get_megatron_optimizer(
        OptimizerConfig(
            optimizer="adam",
            lr=1e-3,
            weight_decay=0.1,
            clip_grad=1.0,
            bf16=dtype is torch.bfloat16,
            params_dtype=dtype,
            use_distributed_optimizer=True,
        ),
        model,
    )
    config.grad_scale_func = optimizer.scale_loss
    config.no_sync_func = model[0].no_sync
    clock = Clock()
    finalize = config.finalize_model_grads_func

    def timed_finalize(*args: Any, **kwargs: Any) -> None:
        with clock("gradient reduction"):
            finalize(*args, **kwargs)

    config.finalize_model_grads_func = timed_finalize
    micro = options.micro or options.rows // RANKS
    positions = torch.arange(options.sequence)[None].expand(micro, -1)

    def forward(iterator: Any, part: Any) -> Any:
        with clock("batch and mask"):
            batch = next(iterator)
            mask = document_mask(batch["document_ids"], dtype=dtype)

        def loss(losses: Any) -> Any:
            total = losses.float().sum()
            return total, torch.tensor(losses.numel(), dtype=torch.int), {"sum": total.detach()}

        with clock("forward"):
            return part(batch["tokens"], positions, mask, labels=batch["targets"]), loss

    def step(number: int) -> float:
        rows = batches(options, number)
        mine = [
            {name: value[row : row + micro] for name, value in rows.items()}
            for row in range(rank * options.rows // RANKS, (rank + 1) * options.rows // RANKS, micro)
        ]
        model[0].zero_grad_buffer()
        optimizer.zero_grad()
        with clock("forward and backward and reduction"):
            reduced = get_forward_backward_func()(
                forward_step_func=forward,
                data_iterator=iter(mine),
                model=model,
                num_microbatches=len(mine),
                seq_length=options.sequence,
                micro_batch_size=micro,
                forward_only=False,
            )
        with clock("optimizer"):
            optimizer.step()
        total = sum(part["sum"] for part in reduced)
        dist.all_reduce(total)
        return float(total) / (options.rows * options.sequence)

    return step, clock


def peer(options: argparse.Namespace) -> tuple[Callable[[int], float], Clock]:
    """A step of the plain loop."""
    import torch
    import transformers

    from tatara.model.hf import hf_config

    torch.set_num_threads(RANKS)
    spec = model_spec(options)
    dtype = getattr(torch, spec.dtype)
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**hf_config(spec))).to(dtype)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1)
    clock = Clock()
    micro = options.micro * RANKS if options.micro else options.rows

    def step(number: int) -> float:
        rows = batches(options, number)
        optimizer.zero_grad()
        total = 0.0
        for row in range(0, options.rows, micro):
            with clock("batch and mask"):
                part = {name: value[row : row + micro] for name, value in rows.items()}
                mask = None
                if options.packed:
                    same = part["document_ids"][:, :, None] == part["document_ids"][:, None, :]
                    mask = (same & torch.ones_like(same[0]).tril())[:, None]
            with clock("forward"):
                logits = model(part["tokens"], attention_mask=mask, use_cache=False).logits
                loss = torch.nn.functional.cross_entropy(
                    logits.flatten(0, 1).float(), part["targets"].flatten(), reduction="sum"
                ) / (options.rows * options.sequence)
            with clock("backward"):
                loss.backward()
            total += loss.item()
        with clock("optimizer"):
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        return total

    return step, clock


def worker(options: argparse.Namespace, name: str, rank: int, directory: str, pipe: Any) -> None:
    """Answer "run these steps" with their seconds until told to stop."""
    step, clock = ours(options, rank, directory) if name == "tatara" else peer(options)
    step(0)
    pipe.send("ready")
    while (steps := pipe.recv()) is not None:
        seconds, losses = [], []
        clock.seconds.clear()
        for number in steps:
            start = time.perf_counter()
            losses.append(step(number))
            seconds.append(time.perf_counter() - start)
        pipe.send({"seconds": seconds, "losses": losses, "split": dict(clock.seconds)})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--vocabulary", type=int, default=4096)
    parser.add_argument("--sequence", type=int, default=512, help="tokens per row")
    parser.add_argument("--rows", type=int, default=8, help="rows per step over both ranks")
    parser.add_argument("--micro", type=int, default=0, help="rows per micro-batch and rank; 0: all at once")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--packed", action="store_true", help="several documents per row, kept apart")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=5, help="per round")
    options = parser.parse_args()

    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as directory:
        groups: dict[str, list[Any]] = {}
        processes = []
        for name, count in (("tatara", RANKS), ("plain loop", 1)):
            groups[name] = []
            for rank in range(count):
                here, there = context.Pipe()
                processes.append(
                    context.Process(target=worker, args=(options, name, rank, directory, there), daemon=True)
                )
                processes[-1].start()
                groups[name].append(here)
            for pipe in groups[name]:
                pipe.recv()
        results: dict[str, list[dict[str, Any]]] = {name: [] for name in groups}
        for number in range(options.rounds):
            steps = list(range(1 + number * options.steps, 1 + (number + 1) * options.steps))
            for name, pipes in groups.items():
                for pipe in pipes:
                    pipe.send(steps)
                results[name].append(next(iter([pipe.recv() for pipe in pipes])))
        for pipe in (pipe for pipes in groups.values() for pipe in pipes):
            pipe.send(None)
        for process in processes:
            process.join(10)
    report(options, results)


def report(options: argparse.Namespace, results: dict[str, list[dict[str, Any]]]) -> None:
    """Print tokens per second, their ratio, and where the time of a step goes."""
    spec = model_spec(options)
    tokens = options.rows * options.sequence
    print(
        f"{spec.parameter_count() / 1e6:.2f}M parameters, {options.dtype}, {options.rows} rows of {options.sequence} "
        f"tokens{', packed' if options.packed else ''}; medians of {options.rounds} rounds of {options.steps} steps"
    )
    speed = {}
    for name, rounds in results.items():
        medians = [statistics.median(run["seconds"]) for run in rounds]
        median = statistics.median(medians)
        speed[name] = tokens / median
        steps = len(rounds) * options.steps
        split = {part: sum(run["split"].get(part, 0.0) for run in rounds) / steps for part in rounds[0]["split"]}
        whole = split.pop("forward and backward and reduction", None)
        if whole is not None:
            split["backward"] = whole - split["forward"] - split["batch and mask"] - split["gradient reduction"]
        parts = ", ".join(f"{part} {seconds * 1e3:.1f}" for part, seconds in split.items())
        gflops = spec.flops_per_token(options.sequence) * speed[name] / 1e9
        print(
            f"{name:>11}: {speed[name]:8.0f} tokens/s, {median * 1e3:6.1f} ms/step "
            f"({min(medians) * 1e3:.1f}-{max(medians) * 1e3:.1f}), {gflops:.1f} GFLOP/s; ms: {parts}; "
            f"loss {rounds[0]['losses'][0]:.3f} -> {rounds[-1]['losses'][-1]:.3f}"
        )
    ratio = speed["tatara"] / speed["plain loop"]
    print(f"ratio tatara / plain loop: {ratio:.2f}")
    print(json.dumps({"ratio": round(ratio, 3), "tokens_per_second": {k: round(v) for k, v in speed.items()}}))


if __name__ == "__main__":
    main()
