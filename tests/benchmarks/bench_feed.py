"""Reading packed sequences: rows per second, against a loop over Megatron's IndexedDataset, document by document.

Rows have 4,096 tokens of 40 documents that lie anywhere in the file. Also: what it costs to know which sequences a step
takes from 20 sources, at the start of a run and far into it.

    python tests/benchmarks/bench_feed.py [--rows 512] [--documents 40] [--rounds 5]
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from megatron.core.datasets.indexed_dataset import IndexedDataset

from tatara.data.indexed import write_index
from tatara.train.feed.batches import PackedTokens
from tatara.train.feed.phases import Phase
from tatara.train.feed.plan import SourceSize
from tatara.train.feed.planning import training_plan

SEQUENCE = 4096


def write(directory: Path, rows: int, documents: int) -> None:
    """Full rows of random documents in random places of the file."""
    random = np.random.default_rng(0)
    pairs = [
        np.diff([0, *np.sort(random.choice(np.arange(1, SEQUENCE), documents - 1, replace=False)), SEQUENCE])
        for _ in range(rows)
    ]
    order = random.permutation(rows * documents)
    lengths = np.empty(rows * documents, np.int64)
    lengths[order] = np.concatenate(pairs) + 1
    random.integers(0, 60_000, lengths.sum()).astype(np.uint16).tofile(directory / "train.bin")
    write_index(directory / "train.idx", lengths, np.uint16)
    columns = {
        "bin": np.repeat(np.arange(rows), documents),
        "document": order,
        "offset": np.zeros(rows * documents, np.int64),
        "length": lengths[order],
    }
    pq.write_table(pa.table(columns), directory / "train-packing.parquet")


def loop(packed: PackedTokens, data: IndexedDataset, bins: np.ndarray) -> list[np.ndarray]:
    """The same batch, a document at a time."""
    shape, plan = (len(bins), SEQUENCE), packed.packing
    tokens, targets, positions = (np.zeros(shape, np.int64) for _ in range(3))
    documents, weights = np.full(shape, -1, np.int64), np.zeros(shape, np.float32)
    for row, each in enumerate(bins.tolist()):
        at = 0
        for number, index in enumerate(range(int(plan.starts[each]), int(plan.starts[each + 1]))):
            run = data.get(int(plan.documents[index]), int(plan.offsets[index]), int(plan.lengths[index]))
            here = slice(at, at + len(run) - 1)
            tokens[row, here], targets[row, here] = run[:-1], run[1:]
            positions[row, here], documents[row, here] = np.arange(len(run) - 1), number
            weights[row, here] = 1.0
            at = here.stop
    return [tokens, targets, weights, positions, documents]


def seconds(work: Callable[[], Any], rounds: int) -> float:
    """Median time of some work, once warm."""
    work()
    spent = []
    for _ in range(rounds):
        started = time.perf_counter()
        work()
        spent.append(time.perf_counter() - started)
    return statistics.median(spent)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--documents", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        write(directory, arguments.rows, arguments.documents)
        packed = PackedTokens(directory, "train", SEQUENCE, vocab_size=65_000)
        data = IndexedDataset(str(directory / "train"))
        every = np.random.default_rng(1).permutation(arguments.rows)
        ours = vars(packed.batch(every)).values()
        if not all((mine == theirs).all() for mine, theirs in zip(ours, loop(packed, data, every), strict=True)):
            raise SystemExit("the two do not read the same")
        print(f"{arguments.documents} documents in a row of {SEQUENCE} tokens")
        for count in (1, 8, 64):
            bins = every[:count]
            mine = seconds(lambda bins=bins: packed.batch(bins), arguments.rounds)
            theirs = seconds(lambda bins=bins: loop(packed, data, bins), arguments.rounds)
            print(
                f"{count:3} rows: {count / mine:8,.0f} rows/s ({mine / count * 1e6:.0f} us each), IndexedDataset in a "
                f"loop {count / theirs:8,.0f} rows/s: {theirs / mine:.1f} times as fast"
            )
    sizes = {f"source-{number:02}": SourceSize(10**6 + number, SEQUENCE) for number in range(20)}
    plan = training_plan(sizes, global_batch_size=2048, steps=10**9, phases=[Phase()])
    for step in (0, 10**4, 10**8):
        spent = seconds(lambda step=step: plan.samples(plan.at(step).positions), arguments.rounds)
        print(f"which 2,048 sequences of 20 sources step {step:,} takes: {spent * 1e3:.1f} ms")


if __name__ == "__main__":
    main()
