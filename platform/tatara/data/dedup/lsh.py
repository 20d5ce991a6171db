"""Locality-sensitive hashing: which bands find pairs above a threshold, and how many they miss."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

_STEPS = 1000


def candidate_probability(similarity: ArrayLike, bands: int, rows: int) -> NDArray[np.float64]:
    """Probability that two documents of some Jaccard similarity agree in all rows of a band.

    Leskovec, Rajaraman and Ullman, Mining of Massive Datasets, section 3.4.2.
    """
    return 1 - (1 - np.asarray(similarity, np.float64) ** rows) ** bands


def false_negatives(bands: int, rows: int, similarities: Sequence[float]) -> list[tuple[float, float]]:
    """(similarity, probability that a pair of it is never looked at) for a report."""
    missed = 1 - candidate_probability(similarities, bands, rows)
    return [(float(similarity), float(miss)) for similarity, miss in zip(similarities, missed, strict=True)]


@lru_cache
def choose_bands(threshold: float, permutations: int, false_negative_weight: float) -> tuple[int, int]:
    """Bands and rows with the least weighted error.

    The error is the probability, integrated over similarity, that a pair above the threshold is no candidate, and
    that one below it is (Zhu et al. 2016, LSH Ensemble, section 5.2, weighted).

    Args:
        threshold: Jaccard similarity.
        permutations: Components that bands and rows may take in all.
        false_negative_weight: Weight of the former error, between 0 and 1; that of the latter is the rest.

    Returns:
        Bands and rows.
    """
    below = (np.arange(_STEPS) + 0.5) / _STEPS * threshold
    above = threshold + (np.arange(_STEPS) + 0.5) / _STEPS * (1 - threshold)
    best, least = (1, 1), float("inf")
    for rows in range(1, permutations + 1):
        for bands in range(1, min(permutations // rows, 255) + 1):
            positive = candidate_probability(below, bands, rows).mean() * threshold
            negative = (1 - candidate_probability(above, bands, rows)).mean() * (1 - threshold)
            error = false_negative_weight * negative + (1 - false_negative_weight) * positive
            if error < least:
                best, least = (bands, rows), error
    return best
