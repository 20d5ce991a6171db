"""Out of memory, as one line that names where it happened and what would fit."""

import os
import resource
from collections.abc import Iterator
from types import TracebackType
from typing import Any

import psutil
import torch

from tatara.errors import EngineError
from tatara.model.compute import ComputeSettings
from tatara.model.spec import ModelSpec
from tatara.train.layout import ParallelLayout
from tatara.train.planner.fit import nearest_fit

_CPU_MESSAGES = ("can't allocate memory", "not enough memory", "Cannot allocate memory")


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory is exhausted, a GPU's or the machine's."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError | OSError) and any(message in str(error) for message in _CPU_MESSAGES)


def place(error: BaseException) -> str:
    """The part of the model that was at work when an error was raised, in words."""
    found = "outside of the model"
    for frame in _frames(error.__traceback__):
        module = frame.get("self")
        number = getattr(module, "layer_number", None)
        if isinstance(number, int):
            # Megatron counts layers from 1.
            found = f"layer {number - 1} ({type(module).__name__})"
        elif frame.get("__name__") == "torch.autograd" or "gradient_tensors" in frame or "grad_tensors" in frame:
            found = "the backward pass"
        elif type(module).__name__ in ("LanguageModelEmbedding", "ColumnParallelLinear") and "layer" not in found:
            found = "the embedding" if type(module).__name__ == "LanguageModelEmbedding" else "the output projection"
        elif type(module).__name__.endswith("Optimizer"):
            found = "the optimizer"
    return found


def as_engine_error(
    error: BaseException,
    step: int,
    spec: ModelSpec,
    layout: ParallelLayout,
    compute: ComputeSettings,
    *,
    sequence_length: int,
    global_batch_size: int,
    micro_batch_size: int,
) -> EngineError:
    """The line that the user reads: the part of the model, the layout, and the nearest layout that fits.

    Args:
        error: What was raised.
        step: The training step, counted from 0.
        spec: The architecture.
        layout: The run's, with ``dp`` resolved.
        compute: How it is computed.
        sequence_length: Tokens per sequence of this step.
        global_batch_size: Sequences of this step.
        micro_batch_size: Sequences per forward pass of one rank.
    """
    on_gpu = torch.cuda.is_available()
    fit = nearest_fit(
        spec,
        layout,
        available(),
        sequence_length=sequence_length,
        global_batch_size=global_batch_size,
        micro_batch_size=micro_batch_size,
        recompute=compute.recompute,
        precision="bf16" if compute.fp8 == "none" else "fp8",
        on_gpu=on_gpu,
    )
    sizes = " ".join(f"{name} {getattr(layout, name)}" for name in ("tp", "pp", "cp", "ep", "dp"))
    return EngineError(
        f"out of memory at step {step + 1} in {place(error)}, with {sizes} micro_batch_size {micro_batch_size}: "
        f"{fit.line()}"
    )


def available() -> float:
    """Bytes that this rank may take: its GPU's, else its share of the machine's memory, or what it is limited to."""
    if torch.cuda.is_available():
        return float(torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory)
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    total = psutil.virtual_memory().total / ranks
    return float(total if limit == resource.RLIM_INFINITY else min(total, limit))


def _frames(traceback: TracebackType | None) -> Iterator[dict[str, Any]]:
    while traceback is not None:
        yield traceback.tb_frame.f_locals
        traceback = traceback.tb_next
