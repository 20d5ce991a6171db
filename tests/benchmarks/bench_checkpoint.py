"""What a checkpoint costs training: seconds that it stands still, against other ways to save the same state.

Two data-parallel ranks of one thread train a model with a checkpoint every few steps: with the trainer's writer, with
`torch.save` of each rank's part (`plain`, training waits), and with Megatron-core's own asynchronous save (`megatron`,
its AsyncCallsQueue, which forks). The medians of the steps without a checkpoint are the step time; what is more in the
other steps is the cost, so that also what a writer takes from the following steps is counted.

    python tests/benchmarks/bench_checkpoint.py [--size 25M 100M] [--systems ours plain megatron] [--every 50] ...
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path[:0] = [str(Path(__file__).parents[2] / "platform"), str(Path(__file__).parents[1])]

from model.ranks import run_ranks  # noqa: E402

SHAPES = {
    "2M": {"num_layers": 4, "hidden_size": 128, "ffn_hidden_size": 384, "vocab_size": 4096},
    "25M": {"num_layers": 8, "hidden_size": 384, "ffn_hidden_size": 1024, "vocab_size": 16384},
    "100M": {"num_layers": 12, "hidden_size": 640, "ffn_hidden_size": 1792, "vocab_size": 32768},
}
SYSTEMS = ("ours", "plain", "megatron")


def measure(options: argparse.Namespace, size: str, system: str, root: str) -> dict[str, Any]:
    """One rank: seconds of each step, blocked seconds of each save, and the whole time of each."""
    import numpy as np
    import torch.distributed as dist

    from tatara.model.spec import ModelSpec
    from tatara.train.engine import Engine
    from tatara.train.feed.batches import Batch
    from tatara.train.layout import ParallelLayout
    from tatara.train.optimizer import AdamSettings

    spec = ModelSpec(num_attention_heads=4, num_query_groups=2, **SHAPES[size])
    engine = Engine(spec, ParallelLayout(), AdamSettings(), micro_batch_size=1)
    shape = (options.rows, options.sequence)
    positions = np.broadcast_to(np.arange(options.sequence), shape).copy()
    tokens = np.random.default_rng(dist.get_rank()).integers(0, spec.vocab_size, shape)
    batch = Batch(tokens, tokens, np.ones(shape, np.float32), positions, np.zeros(shape, np.int64))
    saver = {"ours": Ours, "plain": Plain, "megatron": Megatron}[system](engine, Path(root))
    seconds = []
    for step in range(options.every * options.saves + options.every):
        started = time.perf_counter()
        engine.train_step(batch.split(1), 1e-4)
        saver.poll()
        if step % options.every == 0 and step:
            saver.save(step)
        seconds.append(time.perf_counter() - started)
    saver.finish()
    return {"seconds": seconds, "blocked": saver.blocked, "whole": saver.whole, "parameters": spec.parameter_count()}


class Ours:
    """The trainer's writer."""

    def __init__(self, engine: Any, root: Path) -> None:
        from tatara.train.checkpoint.writer import CheckpointWriter

        self._writer = CheckpointWriter(engine, root, keep=2)
        self.blocked: list[float] = []
        self.whole: list[float] = []

    def _take(self, written: Any) -> None:
        if written is not None:
            self.blocked.append(written.blocked_seconds)
            self.whole.append(written.seconds)

    def save(self, step: int) -> None:
        self._take(self._writer.save(step, {}, []))

    def poll(self) -> None:
        self._take(self._writer.poll())

    def finish(self) -> None:
        self._take(self._writer.finish())


class Plain:
    """`torch.save` of what this rank owns, while training waits."""

    def __init__(self, engine: Any, root: Path) -> None:
        self._engine, self._root = engine, root
        self.blocked: list[float] = []
        self.whole = self.blocked

    def save(self, step: int) -> None:
        import torch
        import torch.distributed as dist

        started = time.perf_counter()
        path = self._root / f"{step}-{dist.get_rank()}.pt"
        inner = [each.optimizer for each in self._engine.optimizer.chained_optimizers]
        # The float32 parameters are views of one buffer, which would be saved whole for each.
        mains = [[main.detach().clone() for group in each.param_groups for main in group["params"]] for each in inner]
        with open(path, "wb") as file:
            torch.save({"weights": mains, "optimizer": [each.state_dict() for each in inner]}, file)
            file.flush()
            os.fsync(file.fileno())
        dist.barrier()
        path.unlink()
        self.blocked.append(time.perf_counter() - started)

    def poll(self) -> None:
        """Nothing is under way."""

    def finish(self) -> None:
        """Nothing is under way."""


class Megatron:
    """Megatron-core's asynchronous save with the optimizer's ``fully_reshardable`` state."""

    def __init__(self, engine: Any, root: Path) -> None:
        from megatron.core.dist_checkpointing.strategies.async_utils import AsyncCallsQueue
        from megatron.core.dist_checkpointing.strategies.torch import TorchDistSaveShardedStrategy

        self._engine, self._root = engine, root
        self._queue = AsyncCallsQueue()
        self._strategy = TorchDistSaveShardedStrategy("torch_dist", 1, thread_count=1, cached_metadata=True)
        self.blocked: list[float] = []
        self.whole: list[float] = []
        self._started = 0.0

    def save(self, step: int) -> None:
        import shutil

        import torch.distributed as dist
        from megatron.core import dist_checkpointing

        self.finish()
        self._started = started = time.perf_counter()
        metadata = {"distrib_optim_sharding_type": "fully_reshardable", "chained_optim_avoid_prefix": True}
        directory = self._root / "megatron"
        if dist.get_rank() == 0:
            shutil.rmtree(directory, ignore_errors=True)
            directory.mkdir()
        dist.barrier()
        model = self._engine.chunks[0].module.sharded_state_dict(metadata=dict(metadata))
        optimizer = self._engine.optimizer.sharded_state_dict(model, metadata=dict(metadata))
        request = dist_checkpointing.save(
            {"model": model, "optimizer": optimizer},
            str(directory),
            self._strategy,
            validate_access_integrity=not self.blocked,
            async_sharded_save=True,
            content_metadata=metadata,
        )
        self._queue.schedule_async_request(request)
        self.blocked.append(time.perf_counter() - started)

    def poll(self) -> None:
        self._finalize(blocking=False)

    def finish(self) -> None:
        self._finalize(blocking=True)

    def _finalize(self, blocking: bool) -> None:
        if not self._queue.get_num_unfinalized_calls():
            return
        started = time.perf_counter()
        done = self._queue.maybe_finalize_async_calls(blocking)
        self.blocked[-1] += time.perf_counter() - started
        if done:
            self.whole.append(time.perf_counter() - self._started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", nargs="+", choices=list(SHAPES), default=["25M", "100M"])
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    parser.add_argument("--every", type=int, default=50, help="steps between checkpoints")
    parser.add_argument("--saves", type=int, default=3)
    parser.add_argument("--sequence", type=int, default=256, help="tokens per row")
    parser.add_argument("--rows", type=int, default=2, help="rows per rank and step")
    parser.add_argument("--directory", help="where to write; by default a temporary directory")
    options = parser.parse_args()
    heads = [("model", 6), ("system", 9), ("step s", 8), ("blocked first", 14), ("later", 8), ("written", 8)]
    print(*(f"{name:>{width}}" for name, width in [*heads, ("share of budget", 16)]))
    for size in options.size:
        for system in options.systems:
            with tempfile.TemporaryDirectory(dir=options.directory) as root:
                ranks = run_ranks(2, measure, options, size, system, root)
            step = statistics.median(ranks[0]["seconds"])
            first, *later = [max(each) for each in zip(*(rank["blocked"] for rank in ranks), strict=True)]
            usual = statistics.median(later or [first])
            whole = statistics.median(ranks[0]["whole"])
            # All that a checkpoint's interval took more than as many plain steps.
            spent = sum(ranks[0]["seconds"][options.every :]) - step * (len(ranks[0]["seconds"]) - options.every)
            share = usual / (step * options.every)
            slowed = spent / (step * options.every * options.saves)
            print(
                f"{size:>6} {system:>9} {step:8.3f} {first:14.3f} {usual:8.3f} {whole:8.2f} {share:15.2%} "
                f"(with slower steps {slowed:.1%}); {ranks[0]['parameters']:,} parameters",
                flush=True,
            )


if __name__ == "__main__":
    main()
