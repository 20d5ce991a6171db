"""The trainer's side of the probe: what the engines must compute with the weights that they are sent."""

from typing import TYPE_CHECKING

import numpy as np

from tatara.rl.grpo import GrpoConfig
from tatara.train.layout import ParallelLayout

if TYPE_CHECKING:
    from tatara.train.engine import Engine


class TrainerProbe:
    """Computes log-probabilities of the same few sequences after each change of the weights.

    Attributes:
        rows: Rows that a replica computes together at least.
        tolerance: Largest difference from an engine's, in nats.
    """

    def __init__(
        self, engine: "Engine", layout: ParallelLayout, config: GrpoConfig, sequences: tuple[tuple[int, ...], ...]
    ) -> None:
        """Lay the sequences out in rows, one each, that the layout can share."""
        from tatara.rl.weight_sync import TOLERANCES
        from tatara.train.feed.batches import empty_batch

        self._engine, self._sequences = engine, sequences
        # An interleaved pipeline takes as many micro-batches as it has stages, or a multiple.
        self.rows = config.micro_batch_size * (layout.pp if layout.virtual_stages > 1 else 1)
        self.tolerance = config.sync.tolerance or TOLERANCES[engine.spec.dtype]
        # Context parallelism cuts a row into two pieces for each rank, sequence parallelism each into more.
        unit = 2 * layout.cp * layout.tp
        length = -(-max(len(each) for each in sequences) // unit) * unit
        batch = empty_batch(-(-len(sequences) // self.rows) * self.rows, length)
        for row, ids in enumerate(sequences):
            pairs = len(ids) - 1
            batch.tokens[row, :pairs], batch.targets[row, :pairs] = ids[:-1], ids[1:]
            batch.position_ids[row, :pairs] = np.arange(pairs)
            batch.document_ids[row, :pairs] = 0
        self._batches = batch.split(config.micro_batch_size)

    def logprobs(self) -> tuple[tuple[float, ...], ...]:
        """Log-probability of every token but the first of each sequence, in nats; collective over all ranks."""
        found = np.concatenate(self._engine.token_logprobs(self._batches))
        return tuple(tuple(found[row, : len(ids) - 1].tolist()) for row, ids in enumerate(self._sequences))
