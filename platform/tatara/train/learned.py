"""What one kind of training says to the loop of a rank: its data, and what it does besides the steps."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tatara.model.spec import ModelSpec

if TYPE_CHECKING:
    from tatara.train.engine import Engine, StepResult
    from tatara.train.feed.batches import Batch


@dataclass(frozen=True)
class Planned:
    """What a step trains on, as far as errors and lineage name it."""

    sequence_length: int
    """Tokens of the longest row."""
    sequences: int
    """Rows of the global batch."""
    lineage: Mapping[str, Any]
    """Says which data it is."""


class Learned(ABC):
    """What a run learns from; see `tatara.train.rank.Rank`, which calls this.

    Attributes:
        spec: The architecture.
        engine: The model; not there before `_open` has returned.
    """

    spec: ModelSpec
    engine: "Engine"

    @abstractmethod
    def _open(self) -> None:
        """Open the data; there is no engine yet."""

    def _ready(self) -> None:  # noqa: B027 - may do nothing
        """Do what needs the engine with its weights, before the first step."""

    def _spec_at(self, step: int) -> ModelSpec:
        """The architecture of a step."""
        return self.spec

    @abstractmethod
    def _batches(self, step: int) -> "Sequence[Batch]":
        """This rank's micro-batches of a step."""

    @abstractmethod
    def _planned(self, step: int) -> Planned:
        """What a step trains on."""

    def _train(
        self, batches: "Sequence[Batch]", rate: float, decay: float, approve: Callable[[float, float], bool]
    ) -> "StepResult":
        """One optimizer step."""
        return self.engine.train_step(batches, rate, weight_decay=decay, approve=approve)

    def _after(self, last: bool) -> None:  # noqa: B027 - may do nothing
        """Do what comes between a step and its checkpoint."""

    def _written(self, step: int) -> None:  # noqa: B027 - may do nothing
        """A checkpoint is safe."""

    def _skipped(self) -> None:  # noqa: B027 - may do nothing
        """Leave out the data that the guard has turned away."""

    def _data_state(self) -> dict[str, Any]:
        """What a checkpoint says of the data."""
        return {}

    def _keeps_optimizer(self) -> bool:
        """Whether the optimizer goes on from the checkpoint that the run starts from."""
        return False
