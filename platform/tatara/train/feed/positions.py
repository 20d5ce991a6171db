"""Which sequences a step trains on: a pure function of the step, whatever the number of ranks."""

from typing import Any

import numpy as np
import numpy.typing as npt

Int64 = npt.NDArray[np.int64]
_ROUNDS = 6


def step_positions(step: int, global_batch_size: int) -> range:
    """Global sample positions of one step; position p counts every sequence since the start of the run."""
    return range(step * global_batch_size, (step + 1) * global_batch_size)


def rank_slice(positions: range, rank: int, ranks: int) -> range:
    """The contiguous share of a step's positions that one data-parallel rank trains on."""
    share = len(positions) // ranks
    return positions[rank * share : (rank + 1) * share]


def bins_at(positions: range | Int64, num_bins: int, seed: int) -> Int64:
    """The bin at each global sample position.

    Every epoch visits each bin once, in an order of its own. Nothing is stored: the order is a keyed permutation
    (Black and Rogaway, "Ciphers with Arbitrary Finite Domains", 2002: a Feistel network with cycle walking), so the
    bin at position 10**12 costs the same as the one at position 0.

    Args:
        positions: Global sample positions, shape ``[n]``.
        num_bins: Bins per epoch.
        seed: Key of the order.

    Returns:
        Bin numbers in ``[0, num_bins)``, shape ``[n]``.
    """
    if num_bins < 1:
        raise ValueError("num_bins must be at least 1")
    where = np.asarray(positions, dtype=np.int64)
    epoch, index = np.divmod(where, num_bins)
    out = np.empty_like(index)
    for each in np.unique(epoch):
        chosen = epoch == each
        out[chosen] = permute(index[chosen], num_bins, seed, int(each))
    return out


def index_of(bins: Int64, epoch: int, num_bins: int, seed: int) -> Int64:
    """Where an epoch visits each bin: the inverse of `bins_at` within one epoch, shape ``[n]``."""
    return permute(bins, num_bins, seed, epoch, inverse=True)


def permute(index: Int64, size: int, seed: int, turn: int, inverse: bool = False) -> Int64:
    """A random permutation of ``[0, size)`` at some places, without the rest of it; see `bins_at`.

    Args:
        index: Places, shape ``[n]``.
        size: Of what is permuted.
        seed: Key of the order.
        turn: Each turn has an order of its own.
        inverse: Undo it.
    """
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    keys = _round_keys(seed, turn)
    network = _inverse_feistel if inverse else _feistel
    out = network(index.astype(np.uint64), half, keys)
    # The network permutes [0, 4**half), at most four times `size`: walk on until every value is inside.
    outside = out >= size
    while outside.any():
        out[outside] = network(out[outside], half, keys)
        outside = out >= size
    return out.astype(np.int64)


def _feistel(value: npt.NDArray[np.uint64], half: int, keys: list[np.uint64]) -> npt.NDArray[np.uint64]:
    mask = np.uint64((1 << half) - 1)
    left, right = value >> np.uint64(half), value & mask
    for key in keys:
        left, right = right, left ^ (_mix(right ^ key) & mask)
    return (left << np.uint64(half)) | right


def _inverse_feistel(value: npt.NDArray[np.uint64], half: int, keys: list[np.uint64]) -> npt.NDArray[np.uint64]:
    mask = np.uint64((1 << half) - 1)
    left, right = value >> np.uint64(half), value & mask
    for key in reversed(keys):
        left, right = right ^ (_mix(left ^ key) & mask), left
    return (left << np.uint64(half)) | right


def _round_keys(seed: int, epoch: int) -> list[np.uint64]:
    keys = np.random.SeedSequence([abs(seed), int(seed < 0), epoch]).generate_state(_ROUNDS, np.uint64)
    return list(keys)


def _mix(value: Any) -> Any:
    """The finaliser of SplitMix64 (Steele, Lea and Flood, 2014); overflow of uint64 is meant."""
    with np.errstate(over="ignore"):
        value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return value ^ (value >> np.uint64(31))
