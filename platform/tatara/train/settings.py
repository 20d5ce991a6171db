"""What every training run is told, whatever it learns from."""

from typing import Literal

from pydantic import Field

from tatara.config import Config, operational
from tatara.model.compute import ComputeSettings
from tatara.train.layout import ParallelLayout
from tatara.train.optimizer import AdamSettings
from tatara.train.schedule import Schedule
from tatara.train.watch.guard import GuardSettings
from tatara.train.watch.stragglers import StragglerSettings


class AverageSettings(Config):
    """An average of the weights that is kept beside them, for the export or the next run."""

    kind: Literal["none", "ema", "last"] = "none"
    """``ema`` is an exponential moving average, ``last`` the mean of the last few snapshots (arXiv:2209.14981)."""
    decay: float = Field(default=0.999, gt=0, lt=1)
    """Of ``ema``: what remains of the average at an update."""
    every: int = Field(default=1, ge=1)
    """Steps between updates; for ``last``, between snapshots."""
    last: int = Field(default=5, ge=1)
    """Snapshots that ``last`` is the mean of."""
    validate_average: bool = False
    """Whether validations are done with the average, too."""


class WatchSettings(Config):
    """How closely a run is watched."""

    interval: int = Field(20, ge=1)
    """Steps between looks at parameter norms, router load and memory."""
    stragglers: StragglerSettings = StragglerSettings()
    """When a rank counts as slow."""
    hang_seconds: float = Field(600.0, gt=0)
    """Time without progress after which a rank says where everyone is and the attempt is started again."""
    start_seconds: float = Field(1800.0, gt=0)
    """The same until the first step of an attempt is done, which loads, compiles and connects."""


class TrainingSettings(Config):
    """Settings of the trainer that have nothing to do with where its batches come from."""

    optimizer: AdamSettings = AdamSettings()
    """Adam and the peak learning rate."""
    schedule: Schedule = Schedule()
    """The learning rate over the run."""
    steps: int = Field(default=300, ge=1)
    """Optimizer steps."""
    seed: int = Field(default=0, ge=0)
    """Of the initial weights and the order of the data."""
    average: AverageSettings = AverageSettings()
    """An average of the weights to keep."""
    guard: GuardSettings = GuardSettings()
    """What to do when the loss jumps or is not a number."""
    compute: ComputeSettings = ComputeSettings()
    """Kernels, recomputation and precision of matrix products."""
    layout: ParallelLayout = operational(ParallelLayout())
    """How ranks share the work. Every layout gives the same losses up to rounding."""
    micro_batch_size: int = operational(8, ge=1)
    """Sequences per forward pass of one rank."""
    checkpoint_interval: int = operational(100, ge=1)
    """Steps between checkpoints; the last step is always followed by one."""
    keep_checkpoints: int = operational(2, ge=1)
    """Checkpoints to keep while training; with two, a damaged newest one is no loss."""
    keep_every: int | None = operational(None, ge=1)
    """Checkpoints whose step is a multiple of this are kept for ever."""
    checkpoints: str | None = operational(None)
    """Where checkpoints go while training, a path or URL; null means the stage's work directory."""
    watch: WatchSettings = operational(WatchSettings())
    """How closely the run is watched."""
    num_workers: int = operational(2, ge=1)
    """Ranks, one process each."""
    cpus_per_worker: float = operational(0.5, ge=0)
    """Logical CPUs that a worker reserves; it computes with its share of the machine's cores whatever it reserves."""
    gpus_per_worker: float | None = operational(None, ge=0)
    """GPUs that a worker reserves; null means one where the cluster has GPUs, else none."""
    max_failures: int = operational(8, ge=-1)
    """Worker failures to recover from before giving up; -1 means any number."""
