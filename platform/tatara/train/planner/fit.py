"""The nearest layout that fits, for a run that is out of memory."""

import math
from collections import Counter
from dataclasses import dataclass, replace

from tatara.model.spec import ModelSpec
from tatara.train.layout import ParallelLayout
from tatara.train.planner.estimate import Choice, Workload
from tatara.train.planner.hardware import GIB, HARDWARE, Precision
from tatara.train.planner.memory import per_rank
from tatara.train.planner.search import Fixed, choices, devices_needed
from tatara.train.planner.work import Recompute

# What a change costs: smaller micro-batches and recomputation only cost speed, and need no other checkpoint shards.
_WEIGHTS = {"micro_batch_size": 0.4, "recompute": 0.8, "tp": 1.0, "pp": 1.0, "cp": 1.0, "ep": 1.0}


@dataclass(frozen=True)
class Fit:
    """What would fit.

    Attributes:
        needed: Bytes per rank of what was asked for.
        choice: The nearest that fits; None where nothing of so many ranks does.
        bytes: What it needs per rank.
        devices: Ranks that would do where nothing of this many fits; None where unknown or not needed.
        changes: The settings to change, as ``key=value``.
    """

    needed: float
    choice: Choice | None
    bytes: float
    devices: int | None
    changes: tuple[str, ...]

    def line(self) -> str:
        """In words."""
        start = f"this layout needs about {self.needed / GIB:,.2f} GiB per rank"
        if self.choice is not None:
            return f"{start}; {' '.join(self.changes)} needs about {self.bytes / GIB:,.2f} GiB"
        if self.devices is not None:
            return f"{start}; no layout of as many ranks fits, {self.devices} ranks would do"
        return f"{start}; no layout fits: use devices with more memory, shorter sequences or a smaller model"


def nearest_fit(
    spec: ModelSpec,
    layout: ParallelLayout,
    device_memory: float,
    *,
    sequence_length: int,
    global_batch_size: int,
    micro_batch_size: int = 1,
    recompute: Recompute = "none",
    precision: Precision = "bf16",
    on_gpu: bool = True,
) -> Fit:
    """The nearest layout of as many ranks that fits.

    Near is what changes few settings by small factors; between equally near ones the one that needs least wins.

    Args:
        spec: The architecture.
        layout: What did not fit, with ``dp`` resolved.
        device_memory: Bytes that a rank may take.
        sequence_length: Tokens per sequence.
        global_batch_size: Sequences per step.
        micro_batch_size: Of what did not fit.
        recompute: Of what did not fit.
        precision: Of matrix products.
        on_gpu: Count the reserve of a GPU's driver and allocator.
    """
    hardware = replace(HARDWARE["h100"], memory=device_memory)
    work = Workload(spec, sequence_length, global_batch_size, hardware, precision)
    asked = Choice(layout, micro_batch_size, recompute)

    def size(choice: Choice, micro_batches: int) -> float:
        return per_rank(
            spec, choice.layout, sequence_length=sequence_length, micro_batch_size=choice.micro_batch_size,
            micro_batches=micro_batches, recompute=choice.recompute, precision=precision, on_gpu=on_gpu,
        ).total  # fmt: skip

    needed = size(asked, max(1, global_batch_size // ((layout.dp or 1) * micro_batch_size)))
    devices = layout.model_ranks * (layout.dp or 1)
    best: tuple[float, float, Choice] | None = None
    # Larger micro-batches than what was asked for never need less.
    for choice, micro_batches in choices(work, devices, Fixed(), Counter()):
        if choice.micro_batch_size > micro_batch_size or choice.layout.virtual_stages not in (1, layout.virtual_stages):
            continue
        bytes_ = size(choice, micro_batches)
        # A little room: activations are an estimate, and what did not fit was not far off either.
        if bytes_ > 0.95 * device_memory or bytes_ >= needed:
            continue
        key = distance(asked, choice), bytes_
        if best is None or key < best[:2]:
            best = (*key, choice)
    if best is None:
        enough = devices_needed(work, Fixed()) if on_gpu else None
        return Fit(needed, None, 0.0, enough if enough and enough > devices else None, ())
    return Fit(needed, best[2], best[1], None, tuple(changes(asked, best[2])))


def distance(one: Choice, other: Choice) -> float:
    """How far two choices are apart: factors of two, weighed by what a change means for the run."""
    far = _WEIGHTS["recompute"] * (one.recompute != other.recompute)
    far += _WEIGHTS["micro_batch_size"] * abs(math.log2(one.micro_batch_size / other.micro_batch_size))
    far += 0.2 * (one.layout.virtual_stages != other.layout.virtual_stages)
    for name in ("tp", "pp", "cp", "ep"):
        far += _WEIGHTS[name] * abs(math.log2(getattr(one.layout, name) / getattr(other.layout, name)))
    return far


def changes(before: Choice, after: Choice) -> list[str]:
    """Settings of a configuration that differ, as ``key=value``."""
    told = []
    for name in ("tp", "pp", "cp", "ep", "virtual_stages", "first_stage_layers", "last_stage_layers",
                 "sequence_parallel"):  # fmt: skip
        if getattr(before.layout, name) != getattr(after.layout, name):
            value = getattr(after.layout, name)
            told.append(f"layout.{name}={str(value).lower() if isinstance(value, bool) else value}")
    if before.micro_batch_size != after.micro_batch_size:
        told.append(f"micro_batch_size={after.micro_batch_size}")
    if before.recompute != after.recompute:
        told.append(f"compute.recompute={after.recompute}")
    return told
