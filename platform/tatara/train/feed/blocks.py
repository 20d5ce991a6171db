"""In which order sources take turns: blocks of positions, each with its exact share of every source.

The design follows levanter's mixture dataset: what lies at a position is a function of the position. There, a block
has the same counts each time; here counts carry the rounding error on, so that shares are exact in the long run.
"""

import functools
from dataclasses import dataclass

import numpy as np

from tatara.train.feed.positions import Int64, permute

BLOCK = 256
"""Sequences per block, give or take one per source. Within a block the order is random, from block to block it is not:
a smaller one makes the mix of each step more even, but a source with a share below 1/256 is not in every block."""


@dataclass(frozen=True)
class Stretch:
    """Positions over which sources are mixed in the same shares.

    After k blocks, source j was taken ``round(k * BLOCK * share_j)`` times. Blocks therefore differ by a few in size,
    but no source ever takes a step back, and all of it is arithmetic on integers at any distance.

    Attributes:
        start: First position.
        sources: Numbers of the sources with a share.
        shares: Numerators of their shares; their sum is the denominator.
        before: Samples of each of them before ``start``.
        key: Of the order within blocks.
    """

    start: int
    sources: tuple[int, ...]
    shares: tuple[int, ...]
    before: tuple[int, ...]
    key: int

    @functools.cached_property
    def _whole(self) -> int:
        return sum(self.shares)

    def samples(self, positions: Int64) -> tuple[Int64, Int64]:
        """What lies at positions.

        Args:
            positions: From `start` on, shape ``[n]``.

        Returns:
            Number of the source, and how many of its samples lie before, each ``[n]``.
        """
        if len(self.sources) == 1:
            return np.full(len(positions), self.sources[0]), self.before[0] + positions - self.start
        source, cursor = np.empty_like(positions), np.empty_like(positions)
        order = np.argsort(positions, kind="stable")
        ordered = positions[order]
        at = 0
        while at < len(ordered):
            block = self._block_of(int(ordered[at]) - self.start)
            first, (taken, ranks) = self.start + self._begin(block), self._turns(block)
            end = int(np.searchsorted(ordered, first + len(taken)))
            place = ordered[at:end] - first
            base = np.array([b + c for b, c in zip(self.before, self._counts(block), strict=True)], np.int64)
            which = taken[place]
            source[order[at:end]] = np.array(self.sources)[which]
            cursor[order[at:end]] = base[which] + ranks[place]
            at = end
        return source, cursor

    def taken_before(self, position: int) -> tuple[int, ...]:
        """Samples of each source before a position, those before the stretch included."""
        block = self._block_of(position - self.start)
        counts, place = self._counts(block), position - self.start - self._begin(block)
        part = np.bincount(self._turns(block)[0][:place], minlength=len(self.sources)).tolist()
        return tuple(b + c + p for b, c, p in zip(self.before, counts, part, strict=True))

    def position_of(self, source: int, cursor: int) -> int:
        """The position of a source's sample, the inverse of `samples`; it may lie beyond the end of the stretch."""
        slot = self.sources.index(source)
        wanted = cursor - self.before[slot]
        block = wanted * self._whole // (BLOCK * self.shares[slot])
        while self._counts(block)[slot] > wanted:
            block -= 1
        while self._counts(block + 1)[slot] <= wanted:
            block += 1
        places = np.flatnonzero(self._turns(block)[0] == slot)
        return self.start + self._begin(block) + int(places[wanted - self._counts(block)[slot]])

    def _counts(self, block: int) -> list[int]:
        """Samples of each source before a block: halves are rounded up."""
        whole = self._whole
        return [(2 * block * BLOCK * share + whole) // (2 * whole) for share in self.shares]

    def _begin(self, block: int) -> int:
        return sum(self._counts(block))

    def _block_of(self, offset: int) -> int:
        # Rounding moves the beginning of a block by at most half a sequence per source.
        block = max(0, (offset - len(self.sources)) // BLOCK)
        while self._begin(block + 1) <= offset:
            block += 1
        return block

    def _turns(self, block: int) -> tuple[Int64, Int64]:
        """Whose turn each place of a block is, and its how-manieth in the block, each ``[size of the block]``."""
        limits = zip(self._counts(block), self._counts(block + 1), strict=True)
        sizes = np.array([end - first for first, end in limits], np.int64)
        ends = np.cumsum(sizes)
        slots = permute(np.arange(ends[-1]), int(ends[-1]), self.key, block)
        taken = np.searchsorted(ends, slots, side="right").astype(np.int64)
        ranks = np.empty_like(taken)
        ranks[np.argsort(taken, kind="stable")] = np.arange(ends[-1]) - np.repeat(ends - sizes, sizes)
        return taken, ranks
