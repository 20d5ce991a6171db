"""Ranks that hang in one way each."""

import ctypes
import sys
import time
from pathlib import Path

LIMIT = 3.0
FIRST_LIMIT = 60.0
GRACE = 2.0
HANG_AT = 6


def spin() -> None:
    """An endless loop in Python."""
    while True:
        pass


def sleep() -> None:
    time.sleep(600)


def hold_the_lock() -> None:
    """A C call that never lets go of Python's lock."""
    ctypes.PyDLL(None).sleep(600)


def dawdle() -> None:
    """Slow, but within the limit."""
    time.sleep(LIMIT / 3)


def stay() -> None:
    """Nothing; the test stops the whole process."""


def rank(rank: int, world: int, directory: str, culprit: int, behaviour: str) -> None:
    """Steps of a sum over all ranks; one of them behaves oddly from some step on."""
    import torch
    import torch.distributed as dist

    from tatara.train.watch.hang import HangGuard

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{directory}/init", rank=rank, world_size=world)
    sys.stderr = open(Path(directory) / f"stderr-{rank}", "w")  # noqa: SIM115
    root = Path(directory)
    guard = HangGuard(
        LIMIT, root / "hang", rank, world, first_limit_seconds=FIRST_LIMIT, grace_seconds=GRACE, attempt="a1",
        events=root / "events.jsonl", native_stacks=behaviour == "sleep" and rank == culprit,
    )  # fmt: skip
    with guard:
        for step in range(1, 9 if behaviour == "dawdle" else 10_000):
            guard.beat(step, "forward")
            if step == 1 and behaviour == "dawdle":
                # Longer than the limit, as compiling is.
                time.sleep(LIMIT * 1.2)
            if rank == culprit and step >= HANG_AT:
                globals()[behaviour]()
            time.sleep(0.15)
            guard.beat(step, "gradients")
            dist.all_reduce(torch.ones(2))
            if rank == culprit:
                (root / "step.part").write_text(str(step))
                (root / "step.part").replace(root / "step")
