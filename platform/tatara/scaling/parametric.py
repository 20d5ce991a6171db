"""The parametric law ``L(N, D) = E + A / N^alpha + B / D^beta`` (arXiv:2203.15556, section 3.3 and appendix D).

Huber's loss of the logs is minimised from many starts. Intervals are a bootstrap over runs, as in arXiv:2404.10102,
which also shows that the loss must be summed, not averaged, for an optimiser not to stop too early.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tatara.errors import DataError
from tatara.scaling.laws import Estimated, estimated
from tatara.scaling.minimise import Index, Objective, huber, minimise
from tatara.scaling.table import PER_PARAMETER, Run

Array = npt.NDArray[np.float64]
DELTA = 1e-3
"""Where Huber's loss of a log residual becomes linear (as published)."""
FEWEST = 8
"""Runs below which five numbers are not fitted."""
_KEPT = 12
_BOOTSTRAP = 200


@dataclass(frozen=True)
class Parametric:
    """The law's constants, and draws of them.

    Attributes:
        irreducible: E, in nats per token.
        size_factor: A.
        data_factor: B.
        size_exponent: alpha.
        data_exponent: beta.
        draws: ``[draws, 5]`` in this order.
        objective: Sum of Huber's losses at the fit.
    """

    irreducible: float
    size_factor: float
    data_factor: float
    size_exponent: float
    data_exponent: float
    draws: Array
    objective: float

    def constants(self) -> Array:
        """E, A, B, alpha, beta."""
        return np.array([self.irreducible, self.size_factor, self.data_factor, self.size_exponent, self.data_exponent])

    def loss(self, parameters: float, tokens: float) -> Estimated:
        """Of a model of so many parameters on so many tokens."""
        return estimated(
            float(_loss(self.constants()[None], parameters, tokens)[0]), _loss(self.draws, parameters, tokens)
        )

    def best(self, compute: float) -> tuple[Estimated, Estimated, Estimated]:
        """Parameters, tokens and loss of the best model of a budget, where compute is 6 N D (equation 4)."""
        sizes, drawn = _best_size(self.constants()[None], compute), _best_size(self.draws, compute)
        tokens, drawn_tokens = compute / (PER_PARAMETER * sizes), compute / (PER_PARAMETER * drawn)
        lowest = _loss(self.constants()[None], sizes, tokens)
        return (
            estimated(float(sizes[0]), drawn),
            estimated(float(tokens[0]), drawn_tokens),
            estimated(float(lowest[0]), _loss(self.draws, drawn, drawn_tokens)),
        )

    def exponents(self) -> tuple[Estimated, Estimated]:
        """Of the best parameters and the best tokens over compute."""
        own = self.data_exponent / (self.size_exponent + self.data_exponent)
        drawn = self.draws[:, 4] / (self.draws[:, 3] + self.draws[:, 4])
        return estimated(own, drawn), estimated(1 - own, 1 - drawn)

    def literals(self) -> dict[str, object]:
        """As JSON has it."""
        names = ("E", "A", "B", "alpha", "beta")
        size, data = self.exponents()
        return {
            **{
                name: estimated(float(value), self.draws[:, column]).literals()
                for column, (name, value) in enumerate(zip(names, self.constants(), strict=True))
            },
            "exponent_of_parameters": size.literals(),
            "exponent_of_tokens": data.literals(),
            "objective": self.objective,
        }


def _loss(constants: Array, parameters: float | Array, tokens: float | Array) -> Array:
    irreducible, size_factor, data_factor, alpha, beta = constants.T
    # Draws of runs that hardly determine the law may be beyond any number; intervals leave them out.
    with np.errstate(all="ignore"):
        found: Array = irreducible + size_factor * parameters**-alpha + data_factor * tokens**-beta
    return found


def _best_size(constants: Array, compute: float) -> Array:
    _, size_factor, data_factor, alpha, beta = constants.T
    with np.errstate(all="ignore"):
        scale = (alpha * size_factor / (beta * data_factor)) ** (1 / (alpha + beta))
        found: Array = scale * (compute / PER_PARAMETER) ** (beta / (alpha + beta))
    return found


def fit_parametric(runs: Sequence[Run], *, bootstrap: int = _BOOTSTRAP, seed: int = 0) -> Parametric:
    """Fit the law.

    Args:
        runs: At least eight, of three or more sizes and three or more numbers of tokens.
        bootstrap: Times that runs are drawn anew, with replacement, for the intervals.
        seed: Of those draws.

    Raises:
        DataError: There are too few runs, sizes or numbers of tokens.
    """
    sizes = np.log([run.parameters for run in runs])
    tokens = np.log([run.tokens for run in runs])
    losses = np.log([run.loss for run in runs])
    kinds = min(len(set(np.round(sizes, 3))), len(set(np.round(tokens, 3))))
    if len(runs) < FEWEST or kinds < 3:
        raise DataError(
            f"the parametric law needs {FEWEST} runs of 3 sizes and 3 numbers of tokens, not {len(runs)} of {kinds}"
        )
    # Around the middle of the runs the five numbers hardly depend on each other; from there the grid is scale-free.
    centre = float(sizes.mean()), float(tokens.mean())
    x, y = sizes - centre[0], tokens - centre[1]
    whole = np.ones((1, len(runs)))
    found, values = minimise(_objective(x, y, losses, whole), _starts(losses), iterations=40, tolerance=1e-4)
    best = found[np.argsort(values)[:_KEPT]]
    found, values = minimise(_objective(x, y, losses, whole), best, iterations=2000)
    winner = found[np.argmin(values)]
    draws = winner[None]
    if bootstrap:
        rng = np.random.default_rng(seed)
        weights = rng.multinomial(len(runs), np.full(len(runs), 1 / len(runs)), bootstrap).astype(np.float64)
        again = np.repeat(winner[None], bootstrap, axis=0)
        draws, _ = minimise(_objective(x, y, losses, weights), again, iterations=300, tolerance=1e-7)
    own = _constants(winner[None], centre)[0]
    irreducible, size_factor, data_factor, alpha, beta = (float(value) for value in own)
    return Parametric(
        irreducible, size_factor, data_factor, alpha, beta, _constants(draws, centre), float(values.min())
    )


def _starts(losses: Array) -> Array:
    """Terms of a few sizes each, exponents from flat to steep, and an irreducible part below the lowest loss."""
    middle, lowest = float(np.median(losses)), float(losses.min())
    terms = [middle - 3.0, middle - 1.5]
    exponents = [0.15, 0.4, 0.9]
    floors = [lowest - 0.7, lowest - 0.1]
    return np.array(list(itertools.product(terms, terms, floors, exponents, exponents)))


def _objective(x: Array, y: Array, losses: Array, weights: Array) -> Objective:
    """Of points (log A, log B, log E at the centre, alpha, beta); ``weights`` are ``[1 or points, runs]``."""

    def value(points: Array, which: Index) -> tuple[Array, Array]:
        a, b, e, alpha, beta = (points[:, column, None] for column in range(5))
        terms = np.stack([a - alpha * x, b - beta * y, np.broadcast_to(e, (len(points), len(x)))])
        top = terms.max(axis=0)
        shares = np.exp(terms - top)
        total = shares.sum(axis=0)
        each, slope = huber(top + np.log(total) - losses, DELTA)
        counted = weights[which] if len(weights) > 1 else weights
        pull = counted * slope * shares / total
        sums = pull.sum(axis=2)
        slopes = np.stack([sums[0], sums[1], sums[2], -(pull[0] * x).sum(axis=1), -(pull[1] * y).sum(axis=1)], axis=1)
        # In units of the least loss that counts, so that small losses are not taken for none.
        return (counted * each).sum(axis=1) / DELTA**2, slopes / DELTA**2

    return value


def _constants(points: Array, centre: tuple[float, float]) -> Array:
    """E, A, B, alpha, beta from points around the centre."""
    a, b, e, alpha, beta = points.T
    with np.errstate(over="ignore"):
        return np.stack([np.exp(e), np.exp(a + alpha * centre[0]), np.exp(b + beta * centre[1]), alpha, beta], axis=1)
