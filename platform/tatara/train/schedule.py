"""The learning rate as a pure function of the step."""

import math
from typing import Literal

from pydantic import Field, model_validator

from tatara.config import Config


class Schedule(Config):
    """Linear warm-up, then one of three shapes down to a floor."""

    shape: Literal["cosine", "wsd", "constant"] = "cosine"
    """`cosine` decays over the whole run, `wsd` (warm-up, stable, decay) only at its end, `constant` never."""
    warmup_steps: int = Field(default=20, ge=0)
    """Steps of linear warm-up from 0."""
    decay_fraction: float = Field(default=0.2, gt=0.0, le=1.0)
    """Share of the run that `wsd` spends decaying."""
    min_ratio: float = Field(default=0.1, ge=0.0, le=1.0)
    """The floor, as a share of the peak learning rate."""

    @model_validator(mode="after")
    def _check(self) -> "Schedule":
        if self.shape == "constant" and "decay_fraction" in self.model_fields_set:
            raise ValueError("decay_fraction has no effect with shape=constant: leave it out")
        return self


def learning_rate(schedule: Schedule, peak: float, step: int, total_steps: int) -> float:
    """The learning rate of one step.

    Args:
        schedule: Shape, warm-up and floor.
        peak: The highest learning rate.
        step: Counted from 0.
        total_steps: Length of the run; later steps stay at the floor.

    Returns:
        A rate in (0, peak]. Cosine follows Loshchilov and Hutter, "SGDR" (2017), eq. 5 without restarts; `wsd` is
        linear in its decay (Hu et al., "MiniCPM", 2024, section 4).
    """
    warmup = min(schedule.warmup_steps, total_steps)
    if step < warmup:
        return peak * (step + 1) / warmup
    if schedule.shape == "constant":
        return peak
    floor = peak * schedule.min_ratio
    start = warmup
    if schedule.shape == "wsd":
        start = max(warmup, total_steps - math.ceil(total_steps * schedule.decay_fraction))
        if step < start:
            return peak
    # The last step of the run lands on the floor, hence the -1.
    progress = min(1.0, (step - start) / max(1, total_steps - 1 - start))
    if schedule.shape == "wsd":
        return peak + (floor - peak) * progress
    return floor + (peak - floor) * 0.5 * (1.0 + math.cos(math.pi * progress))
