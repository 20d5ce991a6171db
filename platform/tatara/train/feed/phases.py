"""What a run is fed and when: phases with their mixes, a ramp of the batch size, and windows of data left out."""

import math
from collections.abc import Sequence

from pydantic import Field, model_validator

from tatara.config import Config
from tatara.model.spec import RopeScaling


class Phase(Config):
    """What changes at a step; whatever is left out goes on as before."""

    from_step: int = Field(default=0, ge=0)
    """First step of the phase, counted from 0. The first phase starts at 0."""
    name: str = ""
    """For logs and reports."""
    weights: dict[str, float] | None = None
    """Share of the sequences by source; scaled to sum to one, and a source that is not named has none. The first
    phase takes every source by its size unless it says otherwise."""
    global_batch_size: int | None = Field(default=None, ge=1)
    """Sequences per step, over all ranks."""
    rope_theta: float | None = Field(default=None, gt=0)
    """Base of the rotary embedding."""
    rope_scaling: RopeScaling | None = None
    """How rotary frequencies are stretched."""
    max_position_embeddings: int | None = Field(default=None, ge=1)
    """Longest context, tokens."""

    @model_validator(mode="after")
    def _check_weights(self) -> "Phase":
        if self.weights is not None:
            wrong = {name: weight for name, weight in self.weights.items() if not 0 <= weight < math.inf}
            if wrong:
                name, weight = next(iter(wrong.items()))
                raise ValueError(f"the weight of {name} is {weight}: weights are finite and not negative")
            if not any(self.weights.values()):
                raise ValueError("weights must have at least one source with a weight above 0")
        return self


class BatchRamp(Config):
    """A global batch size that grows at the start of a run, as Megatron's ``--rampup-batch-size`` does it."""

    start: int = Field(ge=1)
    """Sequences per step at first."""
    increment: int = Field(ge=1)
    """Sequences per step that each stage of the ramp adds; start plus a multiple of it is the full batch."""
    sequences: int = Field(ge=1)
    """Sequences over which the ramp goes; each of its stages gets an equal part of them."""


class Skip(Config):
    """A window of data that is never trained on, such as one that made the loss jump."""

    at_step: int = Field(ge=0)
    """The training step, counted from 0, before which the window is left out."""
    steps: int = Field(ge=1)
    """Length of the window, steps of data."""


def data_step(step: int, skips: Sequence[Skip] = ()) -> int:
    """The step of data that a training step uses: its own number plus all that was left out up to it.

    Order, mix, batch size, sequence length and rotary settings belong to the data and follow the data step: a step of
    data holds the same sequences whatever is left out before it. The learning rate follows the training step. So a
    skip loses exactly its window, nothing is trained twice, and phases begin as many training steps earlier as steps
    of data were left out.
    """
    return step + sum(skip.steps for skip in skips if skip.at_step <= step)


def training_step(data: int, skips: Sequence[Skip] = ()) -> int | None:
    """The training step that uses a step of data, the inverse of `data_step`; None where it was left out."""
    left_out = 0
    for first, end in windows(skips):
        if first <= data < end:
            return None
        left_out += end - first if end <= data else 0
    return data - left_out


def windows(skips: Sequence[Skip]) -> list[tuple[int, int]]:
    """What is left out, as (first, end) in steps of data, in order."""
    found: list[tuple[int, int]] = []
    left_out = 0
    for skip in sorted(skips, key=lambda skip: skip.at_step):
        first = skip.at_step + left_out
        left_out += skip.steps
        if found and found[-1][1] == first:
            first = found.pop()[0]
        found.append((first, skip.at_step + left_out))
    return found


def skip_to(skips: Sequence[Skip], at_step: int, data: int) -> tuple[Skip, ...]:
    """The skips with which training goes on at a training step with a step of data further on.

    Also after a roll-back: windows further on, found in a future that will now be trained anew, stay left out.

    Args:
        skips: What was left out so far.
        at_step: The training step that comes next.
        data: The step of data that it shall use.

    Raises:
        ValueError: Nothing would be left out.
    """
    begin = data_step(at_step, skips)
    if data <= begin:
        raise ValueError(f"training step {at_step} uses data step {begin} already: data={data} would skip nothing")
    merged: list[tuple[int, int]] = []
    for first, end in sorted([*windows(skips), (begin, data)]):
        if merged and first <= merged[-1][1]:
            first, end = merged[-1][0], max(end, merged.pop()[1])
        merged.append((first, end))
    found: list[Skip] = []
    for first, end in merged:
        found.append(Skip(at_step=first - sum(skip.steps for skip in found), steps=end - first))
    return tuple(found)
