"""Model FLOP utilisation on one GPU: the trainer's engine, and beside it a plain PyTorch FSDP loop.

The model is a Llama of about a billion parameters in bfloat16 with float32 optimizer state, on sequences of 4k and 8k
tokens with packed documents (log-normal, about 700 tokens in the mean) or one document per row. The peer is written the
way torchtitan trains on one GPU: blocks compiled one by one, `fully_shard` with a bfloat16 policy over float32
parameters, FlexAttention for documents, fused AdamW. Runs alternate; medians of rounds are compared. Both are counted
with the same formula: `ModelSpec.flops_per_token` at the documents' mean length, so attention across documents is no
progress.

    python tests/benchmarks/bench_gpu.py [--sequences 4096 8192] [--recompute none] [--rounds 3] [--json FILE]
    python tests/benchmarks/bench_gpu.py --tiny          # a check of the script, also without a GPU
"""

import argparse
import gc
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path[:0] = [str(Path(__file__).parents[2] / "platform"), str(Path(__file__).parents[1])]

import numpy as np  # noqa: E402

_MEAN_DOCUMENT = 700


def spec_of(options: argparse.Namespace, sequence: int) -> Any:
    from tatara.model.spec import ModelSpec

    if options.tiny:
        return ModelSpec(vocab_size=512, num_layers=2, hidden_size=64, ffn_hidden_size=128, dtype="bfloat16")
    return ModelSpec(
        vocab_size=128_256,
        num_layers=16,
        hidden_size=2048,
        num_attention_heads=32,
        num_query_groups=8,
        ffn_hidden_size=8192,
        tie_word_embeddings=True,
        rope_theta=500_000.0,
        max_position_embeddings=sequence,
        dtype="bfloat16",
    )


def documents(generator: np.random.Generator, rows: int, sequence: int, packed: bool) -> np.ndarray:
    """Document numbers ``[rows, sequence]``."""
    ids = np.zeros((rows, sequence), dtype=np.int64)
    for row in ids if packed else ():
        at = number = 0
        while at < sequence:
            length = max(8, int(generator.lognormal(np.log(_MEAN_DOCUMENT) - 0.5, 1.0)))
            row[at : at + length] = number
            at, number = at + length, number + 1
    return ids


def batch_of(spec: Any, rows: int, sequence: int, packed: bool, seed: int) -> Any:
    from tatara.train.feed.batches import Batch

    generator = np.random.default_rng(seed)
    tokens = generator.integers(0, spec.vocab_size, (rows, sequence + 1))
    ids = documents(generator, rows, sequence, packed)
    return Batch(
        tokens=np.ascontiguousarray(tokens[:, :-1]),
        targets=np.ascontiguousarray(tokens[:, 1:]),
        loss_weights=np.ones((rows, sequence), np.float32),
        position_ids=np.broadcast_to(np.arange(sequence), ids.shape).copy(),
        document_ids=ids,
    )


def ours(options: argparse.Namespace, spec: Any) -> Callable[[Any], float]:
    from tatara.model.compute import ComputeSettings
    from tatara.train.engine import Engine
    from tatara.train.layout import ParallelLayout
    from tatara.train.optimizer import AdamSettings

    engine = Engine(
        spec,
        ParallelLayout(),
        AdamSettings(),
        micro_batch_size=options.micro,
        compute=ComputeSettings(attention=options.attention, recompute=options.recompute, compile=not options.eager),
    )
    return lambda batch: engine.train_step(batch.split(options.micro), 1e-4).loss


def peer(options: argparse.Namespace, spec: Any) -> Callable[[Any], float]:
    from benchmarks.torch_llama import train_step

    return train_step(spec, options.micro, compiled=not options.eager)


def measure(options: argparse.Namespace, sequence: int, packed: bool) -> list[dict[str, Any]]:
    import torch

    from tatara.train.watch.flops import device_peak, document_load

    spec = spec_of(options, sequence)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    peak = device_peak(device, torch.bfloat16)
    rows = max(options.micro, options.tokens // sequence)
    results: dict[str, list[float]] = {"tatara": [], "torch": []}
    memory = dict.fromkeys(results, 0.0)
    batches = [batch_of(spec, rows, sequence, packed, seed) for seed in range(options.steps)]
    flops = statistics.fmean(document_load(batch.document_ids).flops(spec) for batch in batches)
    for _ in range(options.rounds):
        for name, make in (("tatara", ours), ("torch", peer)):
            step = make(options, spec)
            for batch in batches[: options.warmup]:
                step(batch)
            if device.type == "cuda":
                torch.cuda.synchronize()
                torch.cuda.reset_peak_memory_stats()
            started = time.perf_counter()
            for batch in batches:
                step(batch)
            if device.type == "cuda":
                torch.cuda.synchronize()
                memory[name] = torch.cuda.max_memory_allocated() / 2**30
            results[name].append((time.perf_counter() - started) / len(batches))
            del step
            gc.collect()
            if device.type == "cuda":
                torch.cuda.empty_cache()
    found = []
    for name, seconds in results.items():
        median = statistics.median(seconds)
        found.append(
            {
                "system": name,
                "sequence": sequence,
                "packed": packed,
                "tokens_per_second": round(rows * sequence / median),
                "tflops": round(flops / median / 1e12, 3),
                "mfu": round(flops / median / peak.flops_per_second, 4),
                "peak": f"{peak.flops_per_second / 1e12:.0f} TFLOP/s {peak.source}",
                "memory_gib": round(memory[name], 1),
                "seconds": [round(each, 4) for each in seconds],
            }
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sequences", type=int, nargs="+", default=[4096, 8192])
    parser.add_argument("--tokens", type=int, default=131_072, help="tokens per step")
    parser.add_argument("--micro", type=int, default=2, help="rows per forward pass")
    parser.add_argument("--attention", default="auto")
    parser.add_argument("--recompute", default="none")
    parser.add_argument("--eager", action="store_true", help="do not compile")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tiny", action="store_true", help="a check of the script")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.tiny:
        options.sequences, options.tokens, options.steps, options.rounds, options.warmup = [256], 1024, 2, 1, 1
    import torch
    import torch.distributed as dist

    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    print(f"{name}, torch {torch.__version__}")
    with tempfile.TemporaryDirectory() as directory:
        backend = "nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, init_method=f"file://{directory}/init", rank=0, world_size=1)
        found = []
        for sequence in options.sequences:
            for packed in (True, False):
                pair = measure(options, sequence, packed)
                found += pair
                for each in pair:
                    kind = "packed" if packed else "one document"
                    print(
                        f"{each['system']:>7} {sequence:6d} tokens, {kind:>12}: "
                        f"{each['tokens_per_second']:9,d} tokens/s, {each['tflops']:7.1f} TFLOP/s, "
                        f"MFU {each['mfu']:.1%} of {each['peak']}, {each['memory_gib']:.1f} GiB",
                        flush=True,
                    )
                ratio = pair[0]["tokens_per_second"] / pair[1]["tokens_per_second"]
                print(f"        ratio tatara / torch: {ratio:.2f}", flush=True)
        dist.destroy_process_group()
    if options.json:
        options.json.write_text(json.dumps({"device": name, "results": found}, indent=1))


if __name__ == "__main__":
    main()
