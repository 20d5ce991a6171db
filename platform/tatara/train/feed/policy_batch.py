"""What a policy is trained on: packed rollouts with what was known of each token when it was sampled."""

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from tatara.errors import DataError
from tatara.train.feed.batches import Batch, Float32, Int64


@dataclass(frozen=True)
class PolicyBatch(Batch):
    """Packed rollouts, each array ``[rows, sequence]`` and aligned with ``targets``, whose tokens were sampled.

    ``loss_weights`` hold the algorithm's normalisation, times the targets of the global batch that have a weight: the
    trainer divides by their number, so that the loss is the sum of weight times loss. Prompts, tokens of an
    environment and padding weigh 0. A document is a rollout.
    """

    behaviour_logprobs: Float32
    """Log-probability of each target under the engine that sampled it, in nats; 0 where none was sampled."""
    advantages: Float32
    """Of each target; 0 where none was sampled."""
    policy_version: Int64
    """Version of the policy that sampled the first token of the rollout; -1 where there is none."""
    proximal_logprobs: Float32 | None = None
    """The same under the trainer's weights before the first step on this batch; None takes the weights of each step."""
    reference_logprobs: Float32 | None = None
    """The same under the frozen reference; None where no KL divergence is asked for."""

    def split(self, micro_batch_size: int) -> list["Batch"]:
        """Cut into micro-batches of ``micro_batch_size`` rows, each a `PolicyBatch`."""
        starts = range(0, len(self), micro_batch_size)
        return [self.rows(start, start + micro_batch_size) for start in starts]

    def rows(self, start: int, stop: int) -> "PolicyBatch":
        """Some of the rows."""
        cut: dict[str, Any] = {each.name: getattr(self, each.name) for each in fields(self)}
        sliced: dict[str, Any] = {name: None if array is None else array[start:stop] for name, array in cut.items()}
        return PolicyBatch(**sliced)

    def with_logprobs(
        self, *, proximal: npt.NDArray[Any] | None = None, reference: npt.NDArray[Any] | None = None
    ) -> "PolicyBatch":
        """The same with log-probabilities that the trainer found, ``[rows, sequence]``; None leaves what there is.

        Raises:
            DataError: They have another shape, or one of a trained token is not a finite number.
        """
        given = {"proximal_logprobs": proximal, "reference_logprobs": reference}
        new: dict[str, Any] = {
            name: np.asarray(array, np.float32) for name, array in given.items() if array is not None
        }
        for name, array in new.items():
            if array.shape != self.tokens.shape:
                raise DataError(f"{name} have the shape {array.shape}, but the batch has {self.tokens.shape}")
            if not np.isfinite(array[self.loss_weights != 0]).all():
                raise DataError(f"{name} hold a value that is not a finite number: the model's weights are damaged")
        return replace(self, **new)
