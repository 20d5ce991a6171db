"""From what a user asks to a plan: sizes read and checked, errors that name the way out."""

from collections import Counter
from dataclasses import dataclass

from tatara.errors import ConfigError, LayoutError
from tatara.model.presets import preset
from tatara.model.sizing import model_of_size, parse_count
from tatara.model.spec import ModelSpec
from tatara.train.planner.assumptions import Assumptions
from tatara.train.planner.estimate import Estimate, Workload
from tatara.train.planner.hardware import GIB, Hardware, Precision
from tatara.train.planner.search import Fixed, Ranking, choices, devices_needed, layouts, rank

_BINARY = {"K": 2**10, "M": 2**20, "B": 2**30, "G": 2**30}
_NEAR = 64


def read_model(model: str | None, params: str | None, dtype: str | None = None) -> ModelSpec:
    """The architecture of a preset's name or of a size.

    Raises:
        ConfigError: Neither or both are given, or they are not known.
    """
    if (model is None) == (params is None):
        raise ConfigError("say which model: --model llama3-8b, or --params 50M")
    spec = preset(model) if model is not None else model_of_size(parse_count(str(params)), dtype="bfloat16")
    return spec if dtype is None else spec.model_copy(update={"dtype": dtype})


def read_batch(text: str | int, sequence_length: int) -> int:
    """Sequences of a batch that is given in tokens.

    A batch is whole sequences: ``16M`` is 16 x 1024 x 1024 tokens where that is a multiple of the sequence length (as
    in Llama 3's tables), else 16,000,000.

    Raises:
        ConfigError: The sequence length divides neither; the message names the nearest batches.
    """
    tokens = [parse_count(text)]
    written = str(text).strip().upper()
    if written[-1:] in _BINARY:
        tokens.insert(0, round(float(written[:-1]) * _BINARY[written[-1]]))
    for count in tokens:
        if count % sequence_length == 0:
            return count // sequence_length
    below = tokens[-1] // sequence_length * sequence_length
    near = " or ".join(f"{count:,}" for count in (below, below + sequence_length) if count)
    raise ConfigError(
        f"a batch of {tokens[-1]:,} tokens is no whole number of sequences of {sequence_length:,}: {near}"
    )


@dataclass(frozen=True)
class Plan:
    """What was found.

    Attributes:
        best: Fastest first; never empty.
        ranking: The search behind it.
        warning: Why it does not fit; empty where it does.
    """

    best: tuple[Estimate, ...]
    ranking: Ranking
    warning: str = ""


def make_plan(work: Workload, devices: int, fixed: Fixed, assumed: Assumptions | None = None) -> Plan:
    """The best layouts of so many devices.

    Raises:
        LayoutError: Nothing divides or fits; the message says what would.
    """
    found = rank(work, devices, fixed, assumed)
    if found.best:
        return Plan(found.best, found)
    if found.tried and fixed.tp and fixed.pp and found.smallest is not None:
        short = found.smallest.memory.total - work.hardware.memory
        return Plan((found.smallest,), found, f"it does not fit: {_gib(short)} too much per GPU")
    if found.tried:
        raise LayoutError(_too_large(work, devices, fixed, found))
    reason = found.refused[0][0] if found.refused else f"{devices} GPUs cannot be shared out so"
    raise LayoutError(_nothing_divides(work, devices, fixed, reason))


def _too_large(work: Workload, devices: int, fixed: Fixed, found: Ranking) -> str:
    assert found.smallest is not None
    layout = found.smallest.choice.layout
    line = (
        f"no layout of {devices} {work.hardware.name} fits: the smallest (tp {layout.tp}, pp {layout.pp}, "
        f"cp {layout.cp}, ep {layout.ep}) needs {_gib(found.smallest.memory.total)} of "
        f"{_gib(work.hardware.memory)} per GPU"
    )
    enough = devices_needed(work, fixed)
    return line + (f"; {enough} GPUs would do" if enough and enough > devices else "; use GPUs with more memory")


def _nothing_divides(work: Workload, devices: int, fixed: Fixed, reason: str) -> str:
    batch = work.global_batch_size
    if next(layouts(work.spec, devices, fixed, Counter(), work.hardware.node), None) is not None:
        # The layout is right, the batch is not.
        unit = (fixed.dp or devices) * (fixed.micro_batch_size or 1)
        near = max(1, round(batch / unit)) * unit * work.sequence_length
        return f"{reason}; the nearest batch that fits data parallelism has {near:,} tokens"
    for distance in range(1, _NEAR + 1):
        for other in (devices - distance, devices + distance):
            if other > 0 and next(choices(work, other, fixed, Counter()), None) is not None:
                return f"no layout of {devices} GPUs divides model and batch ({reason}); {other} GPUs do"
    return f"no layout of {devices} GPUs divides model and batch: {reason}"


def why_slower(best: Estimate, other: Estimate) -> str:
    """How much longer a step takes than in the best layout, and which part grew most; or that it is as fast."""
    growth = {name: other.seconds[name] - best.seconds[name] for name in best.seconds}
    name = max(growth, key=lambda key: growth[key])
    slower = other.step_seconds / best.step_seconds - 1
    return "as fast" if slower < 0.002 else f"{slower:.1%} ({name})"


def workload(
    spec: ModelSpec,
    hardware: Hardware,
    sequence_length: int,
    batch_tokens: str | int,
    precision: Precision = "bf16",
    document_length: float | None = None,
) -> Workload:
    """What is trained on what.

    Raises:
        ConfigError: The batch is no whole number of sequences, or the hardware lacks the precision.
    """
    hardware.peak(precision)
    sequences = read_batch(batch_tokens, sequence_length)
    return Workload(spec, sequence_length, sequences, hardware, precision, document_length)


def _gib(size: float) -> str:
    return f"{size / GIB:,.1f} GiB"
