"""Held-out sequences of each source, and how ranks share them."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from tatara.train.feed.batches import EMPTY_BIN, Batch, PackedTokens
from tatara.train.feed.positions import Int64, bins_at

_SEED = 0
# Not the run's: runs with different seeds are compared on the same sequences.


@dataclass(frozen=True)
class ValidationSet:
    """Held-out sequences of one source in micro-batches, equally many for every data-parallel rank.

    Attributes:
        source: Name of the source.
        tokens: Its held-out split.
        rounds: Bins of each micro-batch, `EMPTY_BIN` for padding: ``[micro-batches, micro_batch_size]``.
    """

    source: str
    tokens: PackedTokens
    rounds: Int64

    def batches(self, rank: int, ranks: int) -> Iterator[Batch]:
        """One rank's micro-batches: every ``ranks``-th from its own number on."""
        for bins in self.rounds[rank::ranks]:
            yield self.tokens.batch(bins)


def validation_sets(
    sources: Mapping[str, PackedTokens], sequences: int, micro_batch_size: int, multiple: int
) -> list[ValidationSet]:
    """A validation set for each source, the same ones each time; in alphabetical order.

    Args:
        sources: Held-out splits by name.
        sequences: Sequences wanted of each.
        micro_batch_size: Rows of a forward pass.
        multiple: What the number of micro-batches must be a multiple of: data-parallel ranks, times the pipeline's
            stages where it is interleaved.
    """
    return [
        ValidationSet(name, tokens, rounds(sequences, tokens.num_bins, micro_batch_size, multiple))
        for name, tokens in sorted(sources.items())
    ]


def rounds(sequences: int, available: int, micro_batch_size: int, multiple: int) -> Int64:
    """Bins of each micro-batch, ``[micro-batches, micro_batch_size]``.

    They are drawn from the whole split: best-fit packing puts long documents first.
    """
    taken = min(sequences, available)
    count = math.ceil(taken / (micro_batch_size * multiple)) * multiple
    bins = np.full(count * micro_batch_size, EMPTY_BIN, np.int64)
    bins[:taken] = np.sort(bins_at(range(taken), available, _SEED))
    return bins.reshape(count, micro_batch_size)


@dataclass(frozen=True)
class ValidationLoss:
    """Losses of one validation, in nats per target.

    Attributes:
        overall: Over all targets of all sources.
        by_source: Of each source.
        targets: Targets over all sources.
    """

    overall: float
    by_source: dict[str, float]
    targets: int


def validation_loss(sums: Mapping[str, tuple[float, int]]) -> ValidationLoss:
    """Put the sources' results together.

    Args:
        sums: Summed loss in nats and targets by source. A source without targets has a loss of 0.
    """
    total, targets = sum(loss for loss, _ in sums.values()), sum(count for _, count in sums.values())
    return ValidationLoss(
        total / max(targets, 1), {name: loss / max(count, 1) for name, (loss, count) in sums.items()}, targets
    )
