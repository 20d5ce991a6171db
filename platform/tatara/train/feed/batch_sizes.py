"""How many sequences each step takes, and how many all steps before it took."""

import bisect
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from tatara.errors import ConfigError
from tatara.train.feed.phases import BatchRamp


@dataclass(frozen=True)
class BatchSizes:
    """Batch sizes as pieces of equal ones, so that any step is found by bisection.

    Attributes:
        steps: First step of each piece, rising from 0.
        positions: Sequences before each piece.
        sizes: Sequences per step in each piece.
    """

    steps: tuple[int, ...]
    positions: tuple[int, ...]
    sizes: tuple[int, ...]

    def size(self, step: int) -> int:
        """Sequences of a step."""
        return self.sizes[bisect.bisect_right(self.steps, step) - 1]

    def before(self, step: int) -> int:
        """Sequences of all steps before a step."""
        piece = bisect.bisect_right(self.steps, step) - 1
        return self.positions[piece] + (step - self.steps[piece]) * self.sizes[piece]

    def step_at(self, position: int) -> int:
        """The step that a sequence belongs to."""
        piece = bisect.bisect_right(self.positions, position) - 1
        return self.steps[piece] + (position - self.positions[piece]) // self.sizes[piece]


def batch_sizes(size: int, ramp: BatchRamp | None = None, changes: Sequence[tuple[int, int]] = ()) -> BatchSizes:
    """The batch size of every step.

    Args:
        size: Sequences per step from the end of the ramp on.
        ramp: How the run gets there; its stages are those of ``RampupBatchsizeNumMicroBatchesCalculator`` in
            ``megatron/core/num_microbatches_calculator.py``.
        changes: (step, size) from which on the size is another one, by rising steps; they end a ramp that still goes.

    Raises:
        ConfigError: The ramp's stages do not lead to ``size``.
    """
    pieces = [(0, size)] if ramp is None else _ramp(size, ramp)
    for step, changed in changes:
        pieces = [piece for piece in pieces if piece[0] < step] + [(step, changed)]
    merged = [piece for index, piece in enumerate(pieces) if not index or pieces[index - 1][1] != piece[1]]
    positions = [0]
    for (first, each), (following, _) in itertools.pairwise(merged):
        positions.append(positions[-1] + (following - first) * each)
    return BatchSizes(tuple(step for step, _ in merged), tuple(positions), tuple(each for _, each in merged))


def _ramp(size: int, ramp: BatchRamp) -> list[tuple[int, int]]:
    stages, rest = divmod(size - ramp.start, ramp.increment)
    if rest or stages < 1:
        raise ConfigError(
            f"batch_ramp: {ramp.start} plus a multiple of increment={ramp.increment} must give "
            f"global_batch_size={size}: change start or increment"
        )
    pieces, step, consumed = [], 0, 0
    for stage in range(stages):
        each = ramp.start + stage * ramp.increment
        # A stage goes on as long as consumed / sequences < (stage + 1) / stages.
        missing = -(-(stage + 1) * ramp.sequences // stages) - consumed
        steps = -(-missing // each) if missing > 0 else 0
        if steps:
            pieces.append((step, each))
        step, consumed = step + steps, consumed + steps * each
    return [*pieces, (step, size)]
