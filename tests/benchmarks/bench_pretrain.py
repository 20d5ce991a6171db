"""Pretraining throughput: the trainer's engine, two data-parallel ranks of one thread, against other loops.

The peers: `megatron`, a bare Megatron-core loop on two ranks of one thread; `ddp`, transformers' LlamaForCausalLM with
torch's AdamW in PyTorch's DistributedDataParallel on two ranks of one thread; `plain`, the same in one process of two
threads. All train the same architecture on the same batches in the same type, with gradient clipping; runs alternate,
and the medians of their steps are compared. Threads that wait for each other spin: on a busy machine compare CPU time
with --peer-threads 1.

    python tests/benchmarks/bench_pretrain.py [--peers megatron ddp] [--packed] [--dtype bfloat16] [--sequence 512] ...
"""

import argparse
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path[:0] = [str(Path(__file__).parents[2] / "platform"), str(Path(__file__).parents[1])]

from benchmarks.pretrain_systems import RANKS, SYSTEMS, model_spec  # noqa: E402


def worker(options: argparse.Namespace, name: str, rank: int, directory: str, pipe: Any) -> None:
    """Answer "run these steps" with their seconds until told to stop."""
    step, clock = SYSTEMS[name][1](options, rank, directory)
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
    parser.add_argument("--peers", nargs="+", choices=list(SYSTEMS)[1:], default=["plain"])
    options = parser.parse_args()

    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as directory:
        groups: dict[str, list[Any]] = {}
        processes = []
        for name in ("tatara", *options.peers):
            count = SYSTEMS[name][0]
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
    for name in options.peers:
        ratios = speed["tatara"] / speed[name], cpu[name] / cpu["tatara"]
        print(f"ratio tatara / {name}: {ratios[0]:.2f} in tokens per second, {ratios[1]:.2f} in tokens per CPU second")


if __name__ == "__main__":
    main()
