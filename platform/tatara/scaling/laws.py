"""Laws with intervals: what was fitted, and draws of what else the data would have allowed."""

import itertools
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tatara.errors import DataError
from tatara.scaling.minimise import Index, minimise

Array = npt.NDArray[np.float64]
LEVEL = 0.95
"""Share of the draws that an interval holds."""


FEWEST_FOR_A_FLOOR = 4
"""Budgets below which a loss is not extrapolated: without its floor it would be predicted too low."""


@dataclass(frozen=True)
class Estimated:
    """A figure with the interval that holds ``LEVEL`` of the draws."""

    value: float
    low: float
    high: float

    def literals(self) -> dict[str, float]:
        """As JSON has it."""
        return {"value": self.value, "low": self.low, "high": self.high}

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high


def words(value: Estimated | None) -> str:
    """A figure with its interval, as people read it."""
    return f"{value.value:.4g} ({value.low:.4g} to {value.high:.4g})" if value else "not known"


def estimated(value: float, draws: Array) -> Estimated:
    """A value with the interval of its draws; those that are not finite are left out."""
    finite = draws[np.isfinite(draws)]
    if not len(finite):
        return Estimated(float(value), math.nan, math.nan)
    low, high = np.quantile(finite, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimated(float(value), float(min(low, value)), float(max(high, value)))


@dataclass(frozen=True)
class PowerLaw:
    """``y = coefficient * x ** exponent``, and draws of both in log space.

    Attributes:
        coefficient: At x = 1.
        exponent: Slope in log space.
        draws: ``[draws, 2]``: log of the coefficient and exponent.
        reach: Smallest and largest x that it was fitted on.
    """

    coefficient: float
    exponent: float
    draws: Array
    reach: tuple[float, float]

    def at(self, x: float) -> Estimated:
        """Its value at x."""
        logs = self.draws[:, 0] + self.draws[:, 1] * math.log(x)
        return estimated(self.coefficient * x**self.exponent, np.exp(logs))

    def literals(self) -> dict[str, object]:
        """As JSON has it."""
        return {
            "coefficient": estimated(self.coefficient, np.exp(self.draws[:, 0])).literals(),
            "exponent": estimated(self.exponent, self.draws[:, 1]).literals(),
            "reach": list(self.reach),
        }


def line_draws(x: Array, y: Array, rng: np.random.Generator, draws: int, degree: int = 1) -> tuple[Array, Array]:
    """A polynomial by least squares, and draws of its coefficients from their distribution.

    Coefficients are Student's t around the fit with as many degrees of freedom as there are points to spare; with none
    to spare, nothing is known of the error, and all draws are the fit.

    Returns:
        Coefficients ``[degree + 1]`` from the constant up, and ``[draws, degree + 1]``.
    """
    design = np.vander(x, degree + 1, increasing=True)
    fit, *_ = np.linalg.lstsq(design, y, rcond=None)
    spare = len(x) - degree - 1
    if spare < 1:
        return fit, np.repeat(fit[None], draws, axis=0)
    variance = float(np.sum((y - design @ fit) ** 2)) / spare
    covariance = variance * np.linalg.pinv(design.T @ design)
    root = np.linalg.svd(covariance)
    normal = rng.standard_normal((draws, degree + 1)) @ (root[0] * np.sqrt(root[1])).T
    scale = np.sqrt(spare / rng.chisquare(spare, draws))
    return fit, fit + normal * scale[:, None]


def fit_power_law(x: Array, y: Array, *, y_draws: Array | None = None, draws: int = 1000, seed: int = 0) -> PowerLaw:
    """Least squares in log space.

    Args:
        x: At least two different ones, positive.
        y: Positive.
        y_draws: ``[draws, points]``: what else y may be; its error then goes into the law's.
        draws: How many, where there are no ``y_draws``.
        seed: Of the draws.

    Raises:
        DataError: There are fewer than two different x.
    """
    if len(set(np.round(np.log(x), 9))) < 2:
        raise DataError("a power law needs at least two different budgets")
    rng = np.random.default_rng(seed)
    # Around the middle, where slope and height do not depend on each other.
    logs = np.log(x)
    middle = float(logs.mean())
    count = draws if y_draws is None else len(y_draws)
    fit, sampled = line_draws(logs - middle, np.log(y), rng, count)
    if y_draws is not None:
        design = np.vander(logs - middle, 2, increasing=True)
        own = np.log(y_draws) @ np.linalg.pinv(design).T
        # The errors of the points as they are known, and what their scatter around the line says: the wider counts.
        known, scatter = own.std(axis=0), sampled.std(axis=0)
        sampled = np.where(known >= scatter, own, sampled)
    sampled = np.stack([sampled[:, 0] - sampled[:, 1] * middle, sampled[:, 1]], axis=1)
    exponent = float(fit[1])
    return PowerLaw(math.exp(float(fit[0]) - exponent * middle), exponent, sampled, (float(x.min()), float(x.max())))


@dataclass(frozen=True)
class Saturating:
    """``y = floor + factor * (x / middle) ** -exponent``: a loss that does not fall to nothing.

    Attributes:
        floor: What no budget gets below.
        factor: Above the floor at the middle.
        exponent: How fast that falls.
        middle: Geometric mean of the x that it was fitted on.
        draws: ``[draws, 3]``: floor, factor, exponent.
    """

    floor: float
    factor: float
    exponent: float
    middle: float
    draws: Array

    def at(self, x: float) -> Estimated:
        """Its value at x."""
        own = self.floor + self.factor * (x / self.middle) ** -self.exponent
        return estimated(own, self.draws[:, 0] + self.draws[:, 1] * (x / self.middle) ** -self.draws[:, 2])

    def literals(self) -> dict[str, object]:
        """As JSON has it."""
        values = (self.floor, self.factor, self.exponent)
        names = ("floor", "factor", "exponent")
        fitted = {
            name: estimated(value, self.draws[:, column]).literals()
            for column, (name, value) in enumerate(zip(names, values, strict=True))
        }
        return {**fitted, "middle": self.middle}


def fit_saturating(x: Array, y: Array, y_draws: Array) -> Saturating:
    """Least squares of log y; the interval comes from fitting every draw of y likewise.

    Args:
        x: At least four different ones, positive.
        y: Positive.
        y_draws: ``[draws, points]``: what else y may be.

    Raises:
        DataError: There are fewer than four different x.
    """
    places = np.log(x) - np.log(x).mean()
    if len(set(np.round(places, 9))) < FEWEST_FOR_A_FLOOR:
        raise DataError(f"a law with a floor needs {FEWEST_FOR_A_FLOOR} budgets")
    wanted = np.log(np.concatenate([y[None], y_draws]))

    def value(points: Array, which: Index) -> tuple[Array, Array]:
        floor, factor, exponent = (np.exp(np.clip(points[:, column, None], -30, 30)) for column in range(3))
        falling = factor * np.exp(-np.clip(exponent * places, -30, 30))
        total = floor + falling
        residual = np.log(total) - wanted[which]
        pull = 2 * residual / total
        slopes = (pull * floor, pull * falling, -pull * falling * exponent * places)
        return (residual**2).sum(axis=1), np.stack([slope.sum(axis=1) for slope in slopes], axis=1)

    lowest, mean = float(np.exp(wanted[0].min())), float(np.exp(wanted[0]).mean())
    starts = np.log(
        [
            (part * lowest, mean - part * lowest, exponent)
            for part, exponent in itertools.product((0.3, 0.7, 0.95), (0.05, 0.2))
        ]
    )
    tried, lows = minimise(lambda points, _: value(points, np.zeros(len(points), dtype=np.int64)), starts)
    # Draws are near the fit: they start from it.
    again = np.repeat(tried[np.argmin(lows)][None], len(wanted), axis=0)
    chosen = np.exp(np.clip(minimise(value, again, iterations=100, tolerance=1e-7)[0], -30, 30))
    own = chosen[0]
    middle = math.exp(float(np.log(x).mean()))
    return Saturating(float(own[0]), float(own[1]), float(own[2]), middle, chosen[1:])
