"""The lean import of Megatron-core, in a process of its own."""

import subprocess
import sys


def test_neither_the_compiler_nor_wandb_is_loaded_and_both_still_work():
    script = """
import sys, torch
from tatara.train.lean_imports import import_megatron
import_megatron()
import_megatron()
import tatara.train.engine, tatara.train.checkpoint.writer
assert "torch._inductor" not in sys.modules and "wandb" not in sys.modules
assert torch.compile.__module__ == "torch"
import wandb
assert wandb.__version__
"""
    environment = {"PYTHONPATH": ":".join(sys.path), "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=True, env=environment, timeout=300)
