"""The learning rate as a pure function of the step."""

import math
from typing import Literal

from pydantic import Field, model_validator

from tatara.config import Config

_DECAY_FRACTION = 0.2


class Schedule(Config):
    """Linear warm-up, then a shape down to a floor, then, if wanted, an anneal to zero.

    Published: Llama 3 405B warms up over 8,000 steps and follows a cosine over 1,200,000 steps from 8e-5 to 1% of
    it, then goes linearly to 0 over the last 40M tokens (arXiv:2407.21783, section 3.4).
    """

    shape: Literal["cosine", "linear", "wsd", "constant", "inverse_sqrt"] = "cosine"
    """`cosine` and `linear` go down from the warm-up on, `wsd` (warm-up, stable, decay) only at the end of the run,
    `inverse_sqrt` with the root of the step, `constant` never."""
    warmup_steps: int = Field(default=20, ge=0)
    """Steps of linear warm-up from 0."""
    decay_fraction: float | None = Field(default=None, gt=0.0, le=1.0)
    """Share of the run that `wsd` spends decaying; null means 0.2 where decay_steps is not given."""
    decay_steps: int | None = Field(default=None, ge=1)
    """Steps of the way down: the last ones of the run with `wsd`, the first ones after the warm-up with `cosine` and
    `linear`, where null means the rest of the run. It may be longer than the run."""
    decay_shape: Literal["linear", "cosine", "sqrt"] = "linear"
    """How `wsd` goes down; `sqrt` is the 1 - sqrt of Haegele et al. (arXiv:2405.18392, section 3)."""
    min_ratio: float = Field(default=0.1, ge=0.0, le=1.0)
    """The floor, as a share of the peak learning rate; 0 anneals to zero."""
    anneal_steps: int = Field(default=0, ge=0)
    """Last steps of the run, over which the rate goes linearly from what the shape gives to 0, whatever the floor."""

    @model_validator(mode="after")
    def _check(self) -> "Schedule":
        if self.decay_fraction is not None and self.shape != "wsd":
            raise ValueError(f"decay_fraction has no effect with shape={self.shape}: leave it out")
        if self.decay_steps is not None and self.shape in ("constant", "inverse_sqrt"):
            raise ValueError(f"decay_steps has no effect with shape={self.shape}: leave it out")
        if self.decay_steps is not None and self.decay_fraction is not None:
            raise ValueError("decay_steps and decay_fraction say the same: give one of them")
        if self.decay_shape != "linear" and self.shape != "wsd":
            raise ValueError(f"decay_shape has no effect with shape={self.shape}: leave it out")
        return self


def learning_rate(schedule: Schedule, peak: float, step: int, total_steps: int) -> float:
    """The learning rate of one step.

    Args:
        schedule: Warm-up, shape and floor.
        peak: The highest learning rate.
        step: Training step, counted from 0.
        total_steps: Length of the run; later steps stay at what the last one has.

    Returns:
        A rate in [0, peak]. Cosine follows Loshchilov and Hutter, "SGDR" (2017), eq. 5 without restarts; `wsd` Hu et
        al., "MiniCPM" (2024), section 4; `inverse_sqrt` Vaswani et al., "Attention Is All You Need" (2017), eq. 3.
    """
    anneal = min(schedule.anneal_steps, total_steps)
    if step < total_steps - anneal or not anneal:
        return peak * _ratio(schedule, step, total_steps)
    # The last step lands on 0; the one before the anneal has what the shape gives.
    left = max(0, total_steps - 1 - step) / anneal
    return peak * _ratio(schedule, max(0, total_steps - anneal - 1), total_steps) * left


def _ratio(schedule: Schedule, step: int, total_steps: int) -> float:
    warmup = min(schedule.warmup_steps, total_steps)
    if step < warmup:
        return (step + 1) / warmup
    if schedule.shape == "constant":
        return 1.0
    if schedule.shape == "inverse_sqrt":
        return max(schedule.min_ratio, math.sqrt(max(warmup, 1) / (step + 1)))
    start, end = _decay(schedule, warmup, total_steps)
    if step < start:
        return 1.0
    # The last step of the way down lands on the floor, hence the -1.
    progress = min(1.0, (step - start) / max(1, end - 1 - start))
    shape = schedule.decay_shape if schedule.shape == "wsd" else schedule.shape
    if shape == "cosine":
        left = 0.5 * (1.0 + math.cos(math.pi * progress))
    else:
        left = 1.0 - (math.sqrt(progress) if shape == "sqrt" else progress)
    return schedule.min_ratio + (1.0 - schedule.min_ratio) * left


def _decay(schedule: Schedule, warmup: int, total_steps: int) -> tuple[int, int]:
    """First step of the way down, and the step after its last."""
    if schedule.shape == "wsd":
        steps = schedule.decay_steps or math.ceil(total_steps * (schedule.decay_fraction or _DECAY_FRACTION))
        return max(warmup, total_steps - steps), total_steps
    return warmup, warmup + schedule.decay_steps if schedule.decay_steps else total_steps
