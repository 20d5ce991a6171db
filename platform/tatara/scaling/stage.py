"""The scaling stage: from trained checkpoints to laws and predictions. Imports nothing heavy."""

from typing import Literal

from pydantic import Field

from tatara.config import Config
from tatara.stage import Stage


class ScalingConfig(Config):
    """Scaling laws from checkpoints of many sizes and budgets: IsoFLOP curves, power laws, predictions with intervals.

    Every input is a run; give at least three sizes for each of at least two budgets.
    """

    budgets: tuple[float, ...] = Field(())
    """Computes to predict the best model for, FLOPs; empty means ten times the largest one, where the runs
    allow that."""
    loss: Literal["validation_loss", "loss"] = "validation_loss"
    """Which figure of a checkpoint is its loss."""
    bootstrap: int = Field(200, ge=0)
    """Times that runs are drawn anew for the intervals of the parametric law."""
    seed: int = Field(0, ge=0)
    """Of those draws."""


STAGE = Stage(
    name="scaling",
    kind="scaling",
    config=ScalingConfig,
    inputs={},
    more="checkpoint",
    run="tatara.scaling.stage_run:run",
)
