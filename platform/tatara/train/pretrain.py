"""The pretraining stage: its configuration, and what can be said of it before anything heavy is imported."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from tatara.config import Config
from tatara.errors import ConfigError
from tatara.model.spec import VOCABULARY_MULTIPLE, ModelSpec
from tatara.stage import Stage
from tatara.train.choice import PretrainModel
from tatara.train.feed.phases import BatchRamp, Phase
from tatara.train.layout import ParallelLayout
from tatara.train.settings import TrainingSettings

if TYPE_CHECKING:
    from tatara.train.feed.plan import SourceSize, TrainingPlan


class InitialSettings(Config):
    """What to take from the input ``checkpoint`` besides its weights. Steps, data and schedule start anew."""

    optimizer: Literal["reset", "keep"] = "reset"
    """Start the optimizer's moments from zero, or from the checkpoint's."""


class PretrainConfig(TrainingSettings):
    """Training of a model on packed tokens: pretraining, its later phases, and fine-tuning where tokens have weights.

    The sequence length comes with the tokens. Several tokens artifacts are several sources: their input names are what
    ``phases`` call them.
    """

    model: PretrainModel = PretrainModel()
    """The architecture."""
    global_batch_size: int = Field(default=16, ge=1)
    """Sequences per step, over all ranks."""
    batch_ramp: BatchRamp | None = None
    """How the batch size grows at the start; null means that it does not."""
    phases: tuple[Phase, ...] = ()
    """Changes of mixture, sequence length, batch size and rotary settings at given steps; none is one phase."""
    initial: InitialSettings = InitialSettings()
    """What to start from, if not from random weights."""
    validation_interval: int = Field(default=100, ge=1)
    """Steps between validations; the last step is always followed by one."""
    validation_sequences: int = Field(default=128, ge=0)
    """Held-out sequences of each source per validation, the same ones each time; 0 turns validation off."""

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
