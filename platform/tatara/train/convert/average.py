"""The configuration of the ``average`` stage."""

from typing import Literal

from tatara.config import Config, operational
from tatara.stage import Stage


class AverageConfig(Config):
    """The weighted mean of the weights of checkpoints: runs with different seeds, or averages that a run kept."""

    which: Literal["model", "ema", "last"] = "model"
    """Which weights of each checkpoint: those of its last step (a soup, arXiv:2203.05482), their exponential moving
    average over training, or the mean of the last snapshots; of the latter two, what the run was told to keep."""
    weights: dict[str, float] | None = None
    """Weight of each input by its name; they are scaled to sum to one. Null means all alike."""
    num_cpus: float = operational(1.0, gt=0)
    """CPUs of the task that averages."""
    timeout: float = operational(7200.0, gt=0)
    """Longest time the task may take, in seconds."""
    largest_read: int = operational(1 << 28, ge=1)
    """Elements of a tensor that are averaged at once, at most; they are held in float64."""


STAGE = Stage(
    name="average",
    kind="checkpoint",
    config=AverageConfig,
    inputs={"checkpoint": "checkpoint"},
    more="checkpoint",
    run="tatara.train.convert.average_run:run",
    extra="train",
)
