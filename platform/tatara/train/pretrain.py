"""The pretraining stage: its configuration, and what can be said of it before anything heavy is imported."""

import math

from pydantic import Field, model_validator

from tatara.config import Config, operational
from tatara.errors import ConfigError
from tatara.model.spec import VOCABULARY_MULTIPLE, ModelSpec
from tatara.stage import Stage
from tatara.train.layout import ParallelLayout
from tatara.train.optimizer import AdamSettings
from tatara.train.schedule import Schedule


class PretrainModel(ModelSpec):
    """The architecture; what the tokens decide may be left out."""

    vocab_size: int | None = Field(default=None, ge=1)  # type: ignore[assignment]
    """Tokens the model knows; null means as many as the tokenizer."""

    def resolve(self, tokenizer_size: int, sequence_length: int) -> ModelSpec:
        """The architecture with the vocabulary filled in.

        Args:
            tokenizer_size: Tokens the tokenizer knows.
            sequence_length: Tokens per training sequence.

        Raises:
            ConfigError: The model is too small for the tokens.
        """
        if self.vocab_size is not None and self.vocab_size < tokenizer_size:
            raise ConfigError(
                f"model.vocab_size={self.vocab_size} is smaller than the tokenizer's {tokenizer_size}: "
                "leave it out or raise it"
            )
        if self.max_position_embeddings < sequence_length:
            raise ConfigError(
                f"model.max_position_embeddings={self.max_position_embeddings} is smaller than the "
                f"sequence_length={sequence_length} of the tokens: raise it"
            )
        return ModelSpec(**self.dump() | {"vocab_size": self.vocab_size or tokenizer_size})


class PretrainConfig(Config):
    """Pretraining of a model on packed tokens. The sequence length comes with the tokens."""

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
    seed: int = Field(default=0, ge=0)
    """Of the initial weights and the order of the data."""
    validation_interval: int = Field(default=100, ge=1)
    """Steps between validations; the last step is always followed by one."""
    validation_sequences: int = Field(default=128, ge=0)
    """Held-out sequences per validation, the same ones each time; 0 turns validation off."""
    layout: ParallelLayout = operational(ParallelLayout())
    """How ranks share the work. Every layout gives the same losses up to rounding."""
    micro_batch_size: int = operational(8, ge=1)
    """Sequences per forward pass of one rank."""
    checkpoint_interval: int = operational(100, ge=1)
    """Steps between checkpoints; the last step is always followed by one."""
    keep_checkpoints: int = operational(2, ge=1)
    """Checkpoints to keep while training; with two, a damaged newest one is no loss."""
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
        # Only the tokens know the vocabulary, when it is left out, and the sequence length.
        vocab_size = self.model.vocab_size or VOCABULARY_MULTIPLE * self.layout.tp
        spec = ModelSpec(**self.model.dump() | {"vocab_size": vocab_size})
        check_layout(self, spec, sequence_length=2 * self.layout.cp * self.layout.tp)
        return self


def check_layout(config: PretrainConfig, spec: ModelSpec, sequence_length: int) -> ParallelLayout:
    """The layout with ``dp`` filled in, checked against model, workers and batch.

    Raises:
        LayoutError: One line that names what does not divide.
    """
    config.layout.check_model(spec)
    layout = config.layout.resolve(config.num_workers)
    layout.check_model(spec)
    layout.check_batch(sequence_length, config.global_batch_size, config.micro_batch_size)
    return layout


def validation_rounds(sequences: int, available: int, layout: ParallelLayout, micro_batch_size: int) -> list[list[int]]:
    """Micro-batches of a validation pass, padded so that every data-parallel rank has equally many.

    Args:
        sequences: Held-out sequences wanted.
        available: Bins of the held-out split.
        layout: With ``dp`` resolved.
        micro_batch_size: Sequences per forward pass of one rank.

    Returns:
        Lists of ``micro_batch_size`` bins (-1 is padding); rank r takes every dp-th list from the r-th.
    """
    taken = min(sequences, available)
    lists = math.ceil(taken / micro_batch_size)
    # An interleaved pipeline runs its micro-batches in groups of pp.
    multiple = (layout.dp or 1) * (layout.pp if layout.virtual_stages > 1 else 1)
    total = math.ceil(lists / multiple) * multiple * micro_batch_size
    bins = [*range(taken), *[-1] * (total - taken)]
    return [bins[start : start + micro_batch_size] for start in range(0, total, micro_batch_size)]


STAGE = Stage(
    name="pretrain",
    kind="checkpoint",
    config=PretrainConfig,
    inputs={"tokens": "tokens"},
    run="tatara.train.pretrain_run:run",
)
