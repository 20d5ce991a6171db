"""Pretraining throughput: Megatron-core over gloo, two data-parallel ranks of one thread, against a plain loop.

The peer is transformers' LlamaForCausalLM with torch's AdamW in one process of two threads. Both train the same
architecture on the same batches in the same type, with gradient clipping; runs alternate, and the medians of their
steps are compared. Threads that wait for each other spin: on a busy machine compare CPU time with --peer-threads 1.

    python tests/benchmarks/bench_pretrain.py [--packed] [--dtype bfloat16] [--sequence 512] [--rows 8] ...
"""

import argparse
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path[:0] = [str(Path(__file__).parents[2] / "platform"), str(Path(__file__).parents[1])]

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
    """One global batch of random tokens; documents of about a third of the sequence where rows are packed."""
    import numpy as np

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
        sequence_length=options.sequence,
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


def peer(options: argparse.Namespace) -> tuple[Callable[[int], float], Clock]:
    """A step of the plain loop."""
    import torch
    import transformers

    from tatara.model.hf import hf_config

    torch.set_num_threads(options.peer_threads)
    spec = model_spec(options)
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**hf_config(spec)))
    model = model.to(getattr(torch, spec.dtype))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1)
    clock = Clock()
    micro = options.micro * RANKS if options.micro else options.rows
    total = options.rows * options.sequence

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
        arrays = {name: torch.from_numpy(array) for name, array in batches(options, number).items()}
        summed = 0.0
        for row in range(0, options.rows, micro):
            loss = forward({name: array[row : row + micro] for name, array in arrays.items()})
            loss.backward()
            summed += loss.item()
        update()
        return summed

    return step, clock


def worker(options: argparse.Namespace, name: str, rank: int, directory: str, pipe: Any) -> None:
    """Answer "run these steps" with their seconds until told to stop."""
    step, clock = ours(options, rank, directory) if name == "tatara" else peer(options)
    step(0)
    pipe.send("ready")
    while (steps := pipe.recv()) is not None:
        seconds, losses = [], []
        clock.seconds.clear()
        cpu = time.process_time()
        for number in steps:
            start = time.perf_counter()
            losses.append(step(number))
            seconds.append(time.perf_counter() - start)
        pipe.send(
            {"seconds": seconds, "losses": losses, "split": dict(clock.seconds), "cpu": time.process_time() - cpu}
        )


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
    parser.add_argument(
        "--peer-threads", type=int, default=RANKS, help="1: for the ratio of CPU time on a busy machine"
    )
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
                answers = [pipe.recv() for pipe in pipes]
                results[name].append(answers[0] | {"cpu": sum(answer["cpu"] for answer in answers)})
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
    speed, cpu = {}, {}
    for name, rounds in results.items():
        medians = [statistics.median(run["seconds"]) for run in rounds]
        median = statistics.median(medians)
        speed[name] = tokens / median
        cpu[name] = statistics.median(run["cpu"] for run in rounds) / options.steps
        typical = rounds[medians.index(statistics.median_low(medians))]
        split = {part: seconds / options.steps for part, seconds in typical["split"].items()}
        split["backward and the rest"] = sum(typical["seconds"]) / options.steps - sum(split.values())
        print(
            f"{name:>11}: {speed[name]:8,.0f} tokens/s, {median * 1e3:6.1f} ms/step (rounds "
            f"{min(medians) * 1e3:.1f}-{max(medians) * 1e3:.1f}), {cpu[name] * 1e3:6.1f} CPU-ms/step, "
            f"{spec.flops_per_token(options.sequence) * speed[name] / 1e9:.0f} GFLOP/s, "
            f"loss {rounds[0]['losses'][0]:.3f} -> {rounds[-1]['losses'][-1]:.3f}"
        )
        print(f"{'':>13}of it ms: " + ", ".join(f"{part} {seconds * 1e3:.1f}" for part, seconds in split.items()))
    ratios = speed["tatara"] / speed["plain loop"], cpu["plain loop"] / cpu["tatara"]
    print(f"ratio tatara / plain loop: {ratios[0]:.2f} in tokens per second, {ratios[1]:.2f} in tokens per CPU second")


if __name__ == "__main__":
    main()
