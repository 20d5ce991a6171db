"""The pretraining stage: its configuration, and what can be said of it before anything heavy is imported."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from tatara.config import Config, operational
from tatara.errors import ConfigError
from tatara.model.compute import ComputeSettings
from tatara.model.spec import VOCABULARY_MULTIPLE, ModelSpec
from tatara.stage import Stage
from tatara.train.choice import PretrainModel
from tatara.train.feed.phases import BatchRamp, Phase
from tatara.train.layout import ParallelLayout
from tatara.train.optimizer import AdamSettings
from tatara.train.schedule import Schedule
from tatara.train.watch.guard import GuardSettings
from tatara.train.watch.stragglers import StragglerSettings

if TYPE_CHECKING:
    from tatara.train.feed.plan import SourceSize, TrainingPlan


class InitialSettings(Config):
    """What to take from the input ``checkpoint`` besides its weights. Steps, data and schedule start anew."""

    optimizer: Literal["reset", "keep"] = "reset"
    """Start the optimizer's moments from zero, or from the checkpoint's."""


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


class PretrainConfig(Config):
    """Training of a model on packed tokens: pretraining, its later phases, and fine-tuning where tokens have weights.

    The sequence length comes with the tokens. Several tokens artifacts are several sources: their input names are what
    ``phases`` call them.
    """

    model: PretrainModel = PretrainModel()
    """The architecture."""
    optimizer: AdamSettings = AdamSettings()
    """Adam and the peak learning rate."""
    schedule: Schedule = Schedule()
    """The learning rate over the run."""
    steps: int = Field(default=300, ge=1)
    """Optimizer steps."""
    global_batch_size: int = Field(default=16, ge=1)
    """Sequences per step, over all ranks."""
    batch_ramp: BatchRamp | None = None
    """How the batch size grows at the start; null means that it does not."""
    phases: tuple[Phase, ...] = ()
    """Changes of mixture, sequence length, batch size and rotary settings at given steps; none is one phase."""
    seed: int = Field(default=0, ge=0)
    """Of the initial weights and the order of the data."""
    initial: InitialSettings = InitialSettings()
    """What to start from, if not from random weights."""
    average: AverageSettings = AverageSettings()
    """An average of the weights to keep."""
    guard: GuardSettings = GuardSettings()
    """What to do when the loss jumps or is not a number."""
    validation_interval: int = Field(default=100, ge=1)
    """Steps between validations; the last step is always followed by one."""
    validation_sequences: int = Field(default=128, ge=0)
    """Held-out sequences of each source per validation, the same ones each time; 0 turns validation off."""
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

    @model_validator(mode="after")
    def _check_layout(self) -> "PretrainConfig":
        """Refuse a layout that cannot fit any tokens as soon as it is read, before a cluster starts."""
        # Only the tokens know the vocabulary, when it is left out, and the sequence length. A shape that is derived
        # from a size needs both, and a run that says nothing may get its architecture from a checkpoint.
        if self.model.params is None and any(value is not None for _, value in self.model):
            known = self.model.preset is not None or self.model.vocab_size is not None
            self.layout.check_model(self.model.resolve(1 if known else VOCABULARY_MULTIPLE * self.layout.tp, 1))
        layout = self.layout.resolve(self.num_workers)
        layout.check_batch(2 * layout.cp * layout.tp, self.global_batch_size, self.micro_batch_size)
        return self

    def plan(self, sources: "Mapping[str, SourceSize]") -> "TrainingPlan":
        """The order of all data of the run.

        Raises:
            ConfigError: The phases do not fit each other, the run or the sources.
        """
        from tatara.train.feed.planning import training_plan

        return training_plan(
            sources,
            global_batch_size=self.global_batch_size,
            steps=self.steps,
            seed=self.seed,
            phases=self.phases,
            ramp=self.batch_ramp,
        )


def check_layout(config: PretrainConfig, spec: ModelSpec, plan: "TrainingPlan") -> ParallelLayout:
    """The layout with ``dp`` filled in, checked against model, workers, and every batch of the run.

    Raises:
        LayoutError: One line that names what does not divide.
    """
    config.layout.check_model(spec)
    layout = config.layout.resolve(config.num_workers)
    for sequence_length in sorted({phase.sequence_length for phase in plan.phases}):
        for size in sorted(set(plan.batches.sizes)):
            layout.check_batch(sequence_length, size, config.micro_batch_size)
    return layout


def spec_at(spec: ModelSpec, plan: "TrainingPlan", step: int) -> ModelSpec:
    """The architecture with the rotary settings of a step's phase."""
    rope = plan.at(step).rope
    if rope is None:
        return spec
    changes = {
        "rope_theta": rope.theta,
        "rope_scaling": rope.scaling,
        "max_position_embeddings": rope.max_position_embeddings,
    }
    return spec.model_copy(update={name: value for name, value in changes.items() if value is not None})


def longest_without_rope(plan: "TrainingPlan") -> int:
    """Longest sequence of the phases that keep the model's own context, tokens."""
    own = (phase.sequence_length for phase in plan.phases if not (phase.rope and phase.rope.max_position_embeddings))
    return max(own, default=1)


_MAY_CHANGE: Iterable[str] = ("rope_theta", "rope_scaling", "max_position_embeddings", "init_std", "dtype")


def continued(chosen: PretrainModel, before: ModelSpec) -> PretrainModel:
    """The architecture of a run that starts from a checkpoint: the checkpoint's, where nothing else is said.

    Raises:
        ConfigError: What is said contradicts the checkpoint.
    """
    if chosen.preset is not None or chosen.params is not None:
        raise ConfigError("model.preset and model.params have no meaning with an input checkpoint: leave them out")
    for name, value in chosen:
        if name in ModelSpec.model_fields and value not in (None, getattr(before, name)) and name not in _MAY_CHANGE:
            raise ConfigError(
                f"model.{name}={value}, but the checkpoint to start from has {getattr(before, name)}: leave it out"
            )
    given = {name: value for name, value in chosen if value is not None}
    return PretrainModel(**{**dict(before), **given})


STAGE = Stage(
    name="pretrain",
    kind="checkpoint",
    config=PretrainConfig,
    inputs={"tokens": "tokens"},
    optional={"checkpoint": "checkpoint"},
    more="tokens",
    run="tatara.train.pretrain_run:run",
)
