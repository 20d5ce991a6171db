"""All layouts that fit a machine, best first, and why the others do not."""

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from tatara.errors import LayoutError
from tatara.model.spec import ModelSpec
from tatara.train.layout import ParallelLayout
from tatara.train.planner.assumptions import Assumptions
from tatara.train.planner.estimate import Choice, Estimate, Workload, estimate
from tatara.train.planner.memory import Memory, per_rank
from tatara.train.planner.work import Recompute

_FEWEST_POSITIONS = 1024
"""Of a sequence on one context-parallel rank, below which the exchange is all that is left."""
_MICRO_BATCHES = (1, 2, 4, 8, 16)


@dataclass(frozen=True)
class Fixed:
    """What the user has decided; None leaves it to the search."""

    tp: int | None = None
    pp: int | None = None
    cp: int | None = None
    ep: int | None = None
    dp: int | None = None
    virtual_stages: int | None = None
    micro_batch_size: int | None = None
    recompute: Recompute | None = None


@dataclass(frozen=True)
class Ranking:
    """What a search found.

    Attributes:
        best: Estimates that fit, fastest first.
        tried: Choices that divide model, batch and devices.
        too_large: How many of those do not fit the memory.
        smallest: Of those that do not fit, the one that needs least; None where all fit.
        refused: Why layouts were refused, most frequent first: the reason and how often.
    """

    best: tuple[Estimate, ...]
    tried: int
    too_large: int
    smallest: Estimate | None
    refused: tuple[tuple[str, int], ...]


def rank(work: Workload, devices: int, fixed: Fixed | None = None, assumed: Assumptions | None = None) -> Ranking:
    """Try every layout of so many devices.

    Args:
        work: What is trained on what.
        devices: How many there are; all are used.
        fixed: What is decided already.
        assumed: What is taken for granted.
    """
    fixed, assumed = fixed or Fixed(), assumed or Assumptions()
    refused: Counter[str] = Counter()
    fitting: list[Estimate] = []
    too_large = 0
    smallest: tuple[float, Choice] | None = None
    without: tuple[ParallelLayout, int] | None = None
    for choice, micro_batches in choices(work, devices, fixed, refused):
        if choice.recompute == "full" and without == (choice.layout, choice.micro_batch_size):
            # It fits without, and recomputation has only ever made a step longer.
            continue
        needed = _needed(work, choice, micro_batches)
        if needed.total <= work.hardware.memory:
            without = (choice.layout, choice.micro_batch_size)
            fitting.append(estimate(work, choice, assumed, needed))
            continue
        too_large += 1
        if smallest is None or needed.total < smallest[0]:
            smallest = needed.total, choice
    # Of equally fast ones the one with more room.
    fitting.sort(key=lambda found: (found.step_seconds, found.memory.total))
    return Ranking(
        best=tuple(fitting),
        tried=len(fitting) + too_large,
        too_large=too_large,
        smallest=estimate(work, smallest[1], assumed) if smallest else None,
        refused=tuple(refused.most_common()),
    )


def choices(work: Workload, devices: int, fixed: Fixed, refused: Counter[str]) -> Iterator[tuple[Choice, int]]:
    """Choices that divide everything, with their micro-batches per rank and step; counts the reasons of the others."""
    most_context = max(1, work.sequence_length // _FEWEST_POSITIONS)
    for layout in layouts(work.spec, devices, fixed, refused, node=work.hardware.node, most_context=most_context):
        sizes = [fixed.micro_batch_size] if fixed.micro_batch_size else _MICRO_BATCHES
        for size in sizes:
            if size * (layout.dp or 1) > work.global_batch_size and size != sizes[0]:
                break
            try:
                micro_batches = layout.check_batch(work.sequence_length, work.global_batch_size, size)
            except LayoutError as error:
                refused[str(error)] += 1
                continue
            for recompute in [fixed.recompute] if fixed.recompute else _recomputes():
                yield Choice(layout, size, recompute), micro_batches


def layouts(
    spec: ModelSpec, devices: int, fixed: Fixed, refused: Counter[str], node: int, most_context: int = 128
) -> Iterator[ParallelLayout]:
    """Layouts of all devices that divide the model; counts the reasons of the others.

    Tensor parallelism stays within a node unless it is fixed, since each layer waits for it four times; context
    parallelism stays below ``most_context``.
    """
    for tp in [fixed.tp] if fixed.tp else _divisors(math.gcd(devices, spec.num_query_groups), node):
        for pp in [fixed.pp] if fixed.pp else _divisors(devices // tp, spec.num_layers + 2):
            for cp in [fixed.cp] if fixed.cp else _powers(devices // (tp * pp), most_context):
                for ep in [fixed.ep] if fixed.ep else _expert_sizes(spec, devices // pp):
                    try:
                        yield from _of_sizes(spec, devices, fixed, (tp, pp, cp, ep))
                    except LayoutError as error:
                        refused[str(error)] += 1


def _of_sizes(
    spec: ModelSpec, devices: int, fixed: Fixed, sizes: tuple[int, int, int, int]
) -> Iterator[ParallelLayout]:
    tp, pp, cp, ep = sizes
    plain = ParallelLayout(
        tp=tp, pp=pp, cp=cp, ep=ep, dp=fixed.dp, sequence_parallel=tp > 1, **uneven_ends(spec.num_layers, pp)
    ).resolve(devices)
    plain.check_model(spec)
    if fixed.virtual_stages:
        layout = plain.model_copy(update={"virtual_stages": fixed.virtual_stages})
        layout.check_model(spec)
        yield layout
        return
    whole = max(plain.layers_per_stage(spec.num_layers))
    for stages in _divisors(whole if pp > 1 else 1, whole):
        layout = plain.model_copy(update={"virtual_stages": stages})
        try:
            layout.check_model(spec)
        except LayoutError:
            # The ends cannot be cut so.
            continue
        yield layout


def uneven_ends(num_layers: int, pp: int) -> dict[str, int]:
    """Layers of the first and the last stage, where embedding and output projection take the place of one each.

    As Llama 3 (arXiv:2407.21783 section 3.3.2); empty where the layers divide evenly, or cannot be divided so either.
    """
    if pp == 1 or num_layers % pp == 0:
        return {}
    if (num_layers + 2) % pp == 0 and (num_layers + 2) // pp > 1:
        less = (num_layers + 2) // pp - 1
        return {"first_stage_layers": less, "last_stage_layers": less}
    if (num_layers + 1) % pp == 0 and (num_layers + 1) // pp > 1:
        return {"last_stage_layers": (num_layers + 1) // pp - 1}
    return {}


def _needed(work: Workload, choice: Choice, micro_batches: int) -> Memory:
    return per_rank(
        work.spec,
        choice.layout,
        sequence_length=work.sequence_length,
        micro_batch_size=choice.micro_batch_size,
        micro_batches=micro_batches,
        recompute=choice.recompute,
        precision=work.precision,
    )


def _recomputes() -> tuple[Recompute, ...]:
    # With flash attention nothing is kept that ``selective`` could leave out, so it never wins.
    return ("none", "full")


def _expert_sizes(spec: ModelSpec, ranks: int) -> list[int]:
    return [1] if spec.moe is None else _divisors(math.gcd(spec.moe.num_experts, ranks), spec.moe.num_experts)


def _divisors(number: int, most: int) -> list[int]:
    return [size for size in range(1, min(number, most) + 1) if number % size == 0]


def _powers(number: int, most: int) -> list[int]:
    return [2**power for power in range(most.bit_length()) if 2**power <= most and number % 2**power == 0]


def devices_needed(work: Workload, fixed: Fixed, most: int = 2**17) -> int | None:
    """The smallest power of two of devices on which something fits; None where nothing does."""
    devices = 1
    while devices <= most:
        for choice, micro_batches in choices(work, devices, fixed, Counter()):
            if choice.micro_batch_size == (fixed.micro_batch_size or 1) and (
                _needed(work, choice, micro_batches).total <= work.hardware.memory
            ):
                return devices
        devices *= 2
    return None
