"""Runs drawn from known laws."""

import math
from collections.abc import Sequence

import numpy as np

from tatara.scaling.table import Run

CHINCHILLA = (1.69, 406.4, 410.7, 0.34, 0.28)
"""E, A, B, alpha, beta of arXiv:2203.15556 section 3.3."""
REPLICATED = (1.8172, 482.01, 2085.43, 0.3478, 0.3658)
"""The same of arXiv:2404.10102 equation 4."""
BUDGETS = (6e18, 1e19, 3e19, 6e19, 1e20, 3e20, 6e20, 1e21, 3e21, 1e22)
"""FLOPs, as of Llama 3 (arXiv:2407.21783 section 3.2.1)."""


def loss_of(constants: Sequence[float], parameters: float, tokens: float) -> float:
    irreducible, size, data, alpha, beta = constants
    return irreducible + size / parameters**alpha + data / tokens**beta


def best_size(constants: Sequence[float], compute: float) -> float:
    """By search along the budget, not by the formula."""
    sizes = np.exp(np.linspace(math.log(1e5), math.log(1e15), 400001))
    return float(sizes[np.argmin(loss_of(constants, sizes, compute / (6 * sizes)))])


def runs_of(
    constants: Sequence[float], budgets: Sequence[float] = BUDGETS, noise: float = 0.0, seed: int = 0, reach: float = 5
) -> list[Run]:
    """Nine sizes per budget, around the best one by a factor of ``reach`` either way."""
    rng = np.random.default_rng(seed)
    runs = []
    for compute in budgets:
        best = best_size(constants, compute)
        for factor in np.exp(np.linspace(-math.log(reach), math.log(reach), 9)):
            size = best * float(factor)
            tokens = compute / (6 * size)
            loss = loss_of(constants, size, tokens) * math.exp(rng.normal(0, noise) if noise else 0.0)
            runs.append(Run(size, tokens, compute, loss))
    return runs
