"""Packing: documents per minute per core and how full sequences are, against a plain best fit in Python.

The lengths are those of real documents, drawn with replacement and cut to a random share so that few are alike. The
peer is best-fit decreasing as it is usually written: rooms in a sorted list, found by bisection.

    python tests/benchmarks/bench_packing.py [DOCUMENTS.jsonl.gz ...] [--documents 1000000] [--rounds 3]
"""

import argparse
import bisect
import statistics
import time
from pathlib import Path

import numpy as np
from bench_tokenize import read
from sample import sample

from tatara.data.packing.config import PackingConfig
from tatara.data.packing.plan import chunk, pack


def plain_best_fit(sizes: list[int], capacity: int) -> int:
    """Number of bins of best-fit decreasing."""
    rooms: list[int] = []
    opened = 0
    for size in sorted(sizes, reverse=True):
        place = bisect.bisect_left(rooms, size)
        if place == len(rooms):
            room = capacity
            opened += 1
        else:
            room = rooms.pop(place)
        if room - size:
            bisect.insort(rooms, room - size)
    return opened


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("documents", nargs="*", type=Path)
    parser.add_argument("--documents", dest="count", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    files = arguments.documents or sample("eltec-eng/novels.jsonl.gz", "docs-cpp/docs.jsonl.gz")
    # Four bytes to a token, which is what a vocabulary of 32,000 makes of English.
    real = np.array([len(text) // 4 + 1 for path in files for text in read(path, 1 << 40)], np.int64)
    random = np.random.default_rng(0)
    lengths = np.maximum((random.choice(real, arguments.count) * random.uniform(0.2, 1, arguments.count)), 2)
    lengths = lengths.astype(np.int64)
    print(f"{len(real):,} real documents, {lengths.mean():,.0f} tokens on average, {lengths.max():,} at most")
    for capacity in (4096, 131_072):
        for strategy in ("best_fit", "concatenate", "length_bucketed"):
            config = PackingConfig.model_validate({"strategy": strategy})
            spent = []
            for _ in range(arguments.rounds):
                started = time.process_time()
                plan = pack(lengths, capacity, config)
                spent.append(time.process_time() - started)
            rate = len(lengths) / statistics.median(spent) * 60
            figures = plan.figures(lengths)
            print(
                f"{capacity:7,} {strategy:15}: {rate / 1e6:.1f}M documents/min, {plan.fill:.4%} full, "
                f"{figures['cut']:,} documents cut that would fit"
            )
        _, _, pieces = chunk(lengths, capacity, PackingConfig().min_chunk)
        sizes = (pieces - 1).tolist()
        started = time.process_time()
        bins = plain_best_fit(sizes, capacity)
        rate = len(lengths) / (time.process_time() - started) * 60
        fill = sum(sizes) / (bins * capacity)
        print(f"{capacity:7,} plain Python   : {rate / 1e6:.1f}M documents/min, {fill:.4%} full", flush=True)


if __name__ == "__main__":
    main()
