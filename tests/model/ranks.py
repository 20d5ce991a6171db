"""Runs a function on several gloo ranks, in processes that share nothing with the test's own."""

import multiprocessing
import os
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Only what is installed: the fork server does not search the directory of the tests. pyarrow.dataset imports pandas.
PRELOADED = [
    "torch",
    "transformers",
    "pyarrow.dataset",
    "safetensors.torch",
    "megatron.core.dist_checkpointing",
    "tatara.train.cpu_adapter",
    "tatara.train.pretrain_worker",
    "tatara.train.checkpoint.loading",
    "tatara.train.convert.export_run",
    "tatara.train.convert.import_run",
    "tatara.train.convert.upcycle_run",
]
TIMEOUT = 240.0


def run_ranks(world_size: int, function: Callable[..., Any], *args: Any, **options: Any) -> list[Any]:
    """Call `function(*args, **options)` on every rank; returns what each returned, in the order of ranks.

    The function must be importable (defined outside of test modules). A fork server imports torch and Megatron once, so
    that a rank starts in a fraction of a second, and the CPU adapter never reaches the process of the tests.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    with tempfile.TemporaryDirectory() as directory:
        ranks = [
            context.Process(target=_rank, args=(directory, rank, world_size, function, args, options))
            for rank in range(world_size)
        ]
        for process in ranks:
            process.start()
        try:
            _wait(ranks, time.monotonic() + TIMEOUT, directory)
        finally:
            for process in ranks:
                process.kill()
                process.join()
        import torch

        return [torch.load(_result(directory, rank), weights_only=False) for rank in range(world_size)]


def _wait(ranks: list[Any], deadline: float, directory: str) -> None:
    while any(process.is_alive() for process in ranks) and time.monotonic() < deadline:
        if any(process.exitcode for process in ranks):
            break
        time.sleep(0.02)
    for rank in range(len(ranks)):
        error = Path(directory) / f"{rank}.error"
        if error.exists():
            raise AssertionError(f"rank {rank} failed:\n{error.read_text()}")
    stuck = [rank for rank, process in enumerate(ranks) if process.is_alive() or process.exitcode]
    assert not stuck, f"ranks {stuck} did not finish"


def _rank(
    directory: str,
    rank: int,
    world_size: int,
    function: Callable[..., Any],
    args: tuple[Any, ...],
    options: dict[str, Any],
) -> None:
    import torch
    import torch.distributed as dist

    from tatara.train import cpu_adapter

    try:
        torch.set_num_threads(1)
        os.environ.update(RANK=str(rank), WORLD_SIZE=str(world_size), LOCAL_RANK=str(rank))
        cpu_adapter.install()
        dist.init_process_group("gloo", init_method=f"file://{directory}/init", rank=rank, world_size=world_size)
        torch.save(function(*args, **options), _result(directory, rank))
        dist.barrier()
        dist.destroy_process_group()
    except BaseException:
        (Path(directory) / f"{rank}.error").write_text(traceback.format_exc())
        os._exit(1)


def _result(directory: str, rank: int) -> str:
    return f"{directory}/{rank}.pt"
