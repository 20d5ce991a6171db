"""Step time and memory against sequence length: one context-parallel rank and two, one document per row and packed.

A step is a whole training step of the trainer's engine (forward, backward, gradient reduction, optimizer) on one row,
of a small model in float32, one thread per rank. Packed documents have lognormal lengths of about 700 tokens. The
layouts stay up side by side and are measured in turn, one at a time; a figure is the median over rounds of the slowest
rank. Memory is the largest resident set of a rank during the step, and how far that is above what it was before.

    python tests/benchmarks/bench_context.py [--longest 8192] [--rounds 3] [--layers 2] [--hidden 128] ...
"""

import argparse
import ctypes
import gc
import json
import math
import multiprocessing
import os
import statistics
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path[:0] = [str(Path(__file__).parents[2] / "platform"), str(Path(__file__).parents[1])]

SHORTEST = 1024
SIZES = (1, 2)
KINDS = ("one document", "packed")
_MEAN, _SIGMA = 700, 0.8


def documents(length: int, kind: str, seed: int) -> list[int]:
    """Lengths of the documents of a row."""
    import numpy as np

    if kind == "one document":
        return [length]
    generator = np.random.default_rng(seed)
    lengths: list[int] = []
    while sum(lengths) < length:
        drawn = int(generator.lognormal(math.log(_MEAN) - _SIGMA**2 / 2, _SIGMA))
        lengths.append(min(max(drawn, 1), length - sum(lengths)))
    return lengths


class Peak(threading.Thread):
    """The largest resident set of this process, in bytes, from start to `stop`."""

    def __init__(self) -> None:
        import psutil

        super().__init__(daemon=True)
        gc.collect()
        # What earlier steps freed goes back to the system first.
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        self._process = psutil.Process()
        self._done = threading.Event()
        self.before = self.largest = self._process.memory_info().rss

    def run(self) -> None:
        while not self._done.wait(0.005):
            self.largest = max(self.largest, self._process.memory_info().rss)

    def stop(self) -> None:
        self._done.set()
        self.join()


def rank_main(options: argparse.Namespace, rank: int, cp: int, directory: str, parent: Connection) -> None:
    """Do the steps that the parent asks for; answers with seconds, peak and growth in bytes."""
    import numpy as np
    import torch
    import torch.distributed as dist

    from tatara.model.spec import ModelSpec
    from tatara.train.engine import Engine
    from tatara.train.feed.batches import Batch
    from tatara.train.layout import ParallelLayout
    from tatara.train.optimizer import AdamSettings

    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(cp), LOCAL_RANK=str(rank))
    dist.init_process_group("gloo", init_method=f"file://{directory}/{cp}", rank=rank, world_size=cp)
    spec = ModelSpec(
        vocab_size=options.vocabulary,
        num_layers=options.layers,
        hidden_size=options.hidden,
        ffn_hidden_size=options.hidden * 3,
        num_attention_heads=options.heads,
        num_query_groups=max(options.heads // 2, 1),
        max_position_embeddings=options.longest,
    )
    engine = Engine(spec, ParallelLayout(cp=cp), AdamSettings(clip_norm=1.0), micro_batch_size=1)
    parent.send(None)
    for length, kind, seed in iter(parent.recv, None):
        tokens = np.random.default_rng(seed).integers(0, options.vocabulary, (1, length + 1))
        lengths = documents(length, kind, seed)
        batch = Batch(
            tokens=np.ascontiguousarray(tokens[:, :-1]),
            targets=np.ascontiguousarray(tokens[:, 1:]),
            document_ids=np.repeat(np.arange(len(lengths)), lengths)[None],
            position_ids=np.concatenate([np.arange(each) for each in lengths])[None],
            loss_weights=np.ones((1, length), dtype=np.float32),
        )
        dist.barrier()
        peak = Peak()
        peak.start()
        started = time.perf_counter()
        engine.train_step([batch], learning_rate=1e-4)
        seconds = time.perf_counter() - started
        peak.stop()
        parent.send((seconds, peak.largest, peak.largest - peak.before))
    dist.destroy_process_group()


class Ranks:
    """The processes of one layout."""

    def __init__(self, options: argparse.Namespace, cp: int, directory: str) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipes: list[Connection] = []
        self._processes: list[Any] = []
        for rank in range(cp):
            ours, theirs = context.Pipe()
            process = context.Process(target=rank_main, args=(options, rank, cp, directory, theirs), daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)
        self._answers()

    def step(self, length: int, kind: str, seed: int) -> tuple[float, int, int]:
        """Seconds of the slowest rank, peak and growth of the largest."""
        for pipe in self._pipes:
            pipe.send((length, kind, seed))
        seconds, peaks, growths = zip(*self._answers(), strict=True)
        return max(seconds), max(peaks), max(growths)

    def close(self) -> None:
        for pipe in self._pipes:
            pipe.send(None)
        for process in self._processes:
            process.join()

    def _answers(self) -> list[Any]:
        return [pipe.recv() for pipe in self._pipes]


def exponent(lengths: Sequence[int], values: Sequence[float]) -> float:
    """p of the power law value ~ length ** p, by least squares of the logarithms."""
    x, y = [math.log(length) for length in lengths], [math.log(value) for value in values]
    mean_x, mean_y = statistics.fmean(x), statistics.fmean(y)
    return sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / sum((a - mean_x) ** 2 for a in x)


def measure(options: argparse.Namespace, lengths: Sequence[int]) -> Iterator[tuple[tuple[str, int, int], Any]]:
    """(kind, cp, length) and what its step took, in turn."""
    with tempfile.TemporaryDirectory() as directory:
        layouts = {cp: Ranks(options, cp, directory) for cp in SIZES}
        for cp, kind in [(cp, kind) for cp in SIZES for kind in KINDS]:
            layouts[cp].step(SHORTEST, kind, 0)  # first use of everything
        for turn in range(options.rounds):
            for length in lengths:
                for kind in KINDS:
                    for cp in SIZES:
                        yield (kind, cp, length), layouts[cp].step(length, kind, turn)
        for ranks in layouts.values():
            ranks.close()


def main() -> int:
    """Measure, print the table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--longest", type=int, default=32768, help="tokens; the shortest row has 1024 (default 32768)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--heads", type=int, default=2)
    parser.add_argument("--vocabulary", type=int, default=512)
    options = parser.parse_args()
    if options.longest < 2 * SHORTEST:
        parser.error(f"--longest must be at least {2 * SHORTEST}: growth needs two lengths")
    lengths = [SHORTEST << power for power in range((options.longest // SHORTEST).bit_length())]
    found: dict[tuple[str, int, int], list[Any]] = defaultdict(list)
    for key, taken in measure(options, lengths):
        found[key].append(taken)
    median = {key: [statistics.median(each) for each in zip(*taken, strict=True)] for key, taken in found.items()}
    print(f"training step, {options.layers} layers of {options.hidden}, 1 row, float32, {options.rounds} rounds")
    print(f"{'documents':>14} {'cp':>3} {'tokens':>7} {'seconds':>9} {'peak MB':>8} {'grown MB':>9}")
    for (kind, cp, length), (seconds, peak, growth) in sorted(median.items()):
        print(f"{kind:>14} {cp:>3} {length:>7} {seconds:>9.3f} {peak / 1e6:>8.0f} {growth / 1e6:>9.1f}")
    growth_of: dict[str, dict[str, float]] = {}
    for kind in KINDS:
        for cp in SIZES:
            series = [median[kind, cp, length] for length in lengths]
            growth_of[f"{kind}, cp {cp}"] = {
                "seconds": round(exponent(lengths, [each[0] for each in series]), 2),
                "seconds_last_doubling": round(math.log2(series[-1][0] / series[-2][0]), 2),
                "memory": round(exponent(lengths, [max(each[2], 1) for each in series]), 2),
            }
            print(f"growth exponents, {kind}, cp {cp}: {growth_of[f'{kind}, cp {cp}']}")
    longest = lengths[-1]
    ratio = {
        "cp2_over_cp1_one_document": median["one document", 2, longest][0] / median["one document", 1, longest][0],
        "packed_over_one_document_cp1": median["packed", 1, longest][0] / median["one document", 1, longest][0],
    }
    rows = [
        {"documents": kind, "cp": cp, "tokens": length, "seconds": s, "peak_bytes": int(p), "growth_bytes": int(g)}
        for (kind, cp, length), (s, p, g) in sorted(median.items())
    ]
    print(json.dumps({"benchmark": "context", "growth": growth_of, "ratio": ratio, "rows": rows}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
