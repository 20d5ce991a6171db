"""IsoFLOP curves: runs of one budget and many sizes, a parabola through each, and its minimum.

The second approach of arXiv:2203.15556 (section 3.2), with the number of tokens on the axis as in arXiv:2407.21783
(section 3.2.1), and with the number of parameters.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from tatara.errors import DataError
from tatara.scaling.laws import (
    FEWEST_FOR_A_FLOOR,
    Estimated,
    PowerLaw,
    Saturating,
    estimated,
    fit_power_law,
    fit_saturating,
    line_draws,
)
from tatara.scaling.table import Run

Axis = Literal["parameters", "tokens"]
Array = npt.NDArray[np.float64]
_SAME_BUDGET = 0.1
"""How far, as a part, computes may be apart and count as one budget."""
_LOSS_DRAWS = 300


@dataclass(frozen=True)
class Parabola:
    """Loss over log tokens or log parameters at one budget.

    Attributes:
        budget: FLOPs: the geometric mean of its runs'.
        axis: What is on the axis.
        coefficients: Constant, linear and quadratic, in the log of the axis.
        runs: What it was fitted on.
        best: Where the minimum is.
        loss: At the minimum.
        problem: Why the minimum does not count; empty where it does.
        draws: ``[draws, 2]``: place and height of the minimum as the data would also have allowed; NaN where a draw has
            none.
    """

    budget: float
    axis: Axis
    coefficients: tuple[float, float, float]
    runs: tuple[Run, ...]
    best: Estimated
    loss: Estimated
    problem: str
    draws: Array

    def at(self, x: float) -> float:
        """Loss at a number of tokens or parameters."""
        place = math.log(x)
        constant, linear, quadratic = self.coefficients
        return constant + linear * place + quadratic * place**2


def budgets(runs: Sequence[Run]) -> list[list[Run]]:
    """Runs by budget, smallest first: neighbours in compute that are at most a tenth apart belong together."""
    grouped: list[list[Run]] = []
    for run in sorted(runs, key=lambda run: run.compute):
        if grouped and run.compute <= grouped[-1][0].compute * (1 + _SAME_BUDGET):
            grouped[-1].append(run)
        else:
            grouped.append([run])
    return grouped


def fit_parabola(runs: Sequence[Run], axis: Axis, *, draws: int = 1000, seed: int = 0) -> Parabola:
    """The parabola through the runs of one budget.

    Raises:
        DataError: There are fewer than three sizes.
    """
    budget = math.exp(sum(math.log(run.compute) for run in runs) / len(runs))
    x = np.log([getattr(run, axis) for run in runs])
    y = np.array([run.loss for run in runs])
    if len(set(np.round(x, 6))) < 3:
        raise DataError(f"budget {budget:.3g} FLOPs has {len(set(np.round(x, 6)))} sizes: a parabola needs three")
    middle = float(x.mean())
    fit, sampled = line_draws(x - middle, y, np.random.default_rng(seed), draws, degree=2)
    places, heights = _minima(sampled)
    (place,), (height,) = _minima(fit[None])
    problem = _problem(place + middle, x, sampled)
    with np.errstate(over="ignore"):
        # Of a curve as flat as its noise some draws have their minimum beyond any number; they count as having none.
        drawn = np.exp(places + middle)
    shifted = (fit[0] - fit[1] * middle + fit[2] * middle**2, fit[1] - 2 * fit[2] * middle, fit[2])
    return Parabola(
        budget=budget,
        axis=axis,
        coefficients=(float(shifted[0]), float(shifted[1]), float(shifted[2])),
        runs=tuple(runs),
        best=estimated(math.exp(place + middle) if math.isfinite(place) else math.nan, drawn),
        loss=estimated(float(height), heights),
        problem=problem,
        draws=np.stack([drawn, heights], axis=1),
    )


def _minima(coefficients: Array) -> tuple[Array, Array]:
    """Places and heights of the minima of parabolas; NaN for those that open downwards."""
    constant, linear, quadratic = coefficients.T
    opens = quadratic > 0
    safe = np.where(opens, quadratic, 1.0)
    places = np.where(opens, -linear / (2 * safe), np.nan)
    heights = np.where(opens, constant - linear**2 / (4 * safe), np.nan)
    return places, heights


def _problem(place: float, x: Array, sampled: Array) -> str:
    if not math.isfinite(place):
        return "its parabola opens downwards: add smaller and larger sizes"
    if place <= x.min():
        return "its minimum is at or below the smallest size: add smaller ones"
    if place >= x.max():
        return "its minimum is at or above the largest size: add larger ones"
    if float(np.mean(sampled[:, 2] <= 0)) > 0.05:
        return "its curve is as flat as its noise: add sizes further out"
    return ""


@dataclass(frozen=True)
class IsoFlop:
    """Parabolas of all budgets, and the law through their minima.

    Attributes:
        axis: What is on the axis.
        parabolas: By budget.
        law: Best parameters or tokens over compute; None where it cannot be fitted.
        loss: Loss at the minima over compute; None where there are too few to tell its floor.
        warnings: What was left out and why.
    """

    axis: Axis
    parabolas: tuple[Parabola, ...]
    law: PowerLaw | None
    loss: Saturating | None
    warnings: tuple[str, ...]


def fit_isoflop(runs: Sequence[Run], axis: Axis, *, draws: int = 1000, seed: int = 0) -> IsoFlop:
    """Fit every budget, and the power law through the minima that count.

    Budgets without a minimum inside their sizes are left out with a warning, not extrapolated.
    """
    parabolas, warnings = [], []
    for index, group in enumerate(budgets(runs)):
        try:
            found = fit_parabola(group, axis, draws=draws, seed=seed + index)
        except DataError as error:
            warnings.append(f"{error}; left out")
            continue
        parabolas.append(found)
        if found.problem:
            warnings.append(f"budget {found.budget:.3g} FLOPs is left out of the law of {axis}: {found.problem}")
    counted = [parabola for parabola in parabolas if not parabola.problem]
    law, loss = None, None
    if len(counted) >= 2:
        compute = np.array([parabola.budget for parabola in counted])
        places = np.stack([_filled(parabola, 0) for parabola in counted], axis=1)
        heights = np.stack([_filled(parabola, 1) for parabola in counted], axis=1)
        best = np.array([parabola.best.value for parabola in counted])
        lowest = np.array([parabola.loss.value for parabola in counted])
        law = fit_power_law(compute, best, y_draws=places, seed=seed)
        if len(counted) >= FEWEST_FOR_A_FLOOR:
            loss = fit_saturating(compute, lowest, heights[:_LOSS_DRAWS])
        else:
            warnings.append(
                f"{len(counted)} budgets have a minimum: the loss is not extrapolated from fewer than "
                f"{FEWEST_FOR_A_FLOOR}, which cannot tell what it falls to"
            )
    else:
        warnings.append(f"{len(counted)} budgets have a minimum: a law of {axis} needs two or more, so none is fitted")
    return IsoFlop(axis, tuple(parabolas), law, loss, tuple(warnings))


def _filled(parabola: Parabola, column: int) -> Array:
    """Draws of a minimum; those without one, at most a few, become the fit."""
    value = parabola.best.value if column == 0 else parabola.loss.value
    drawn = parabola.draws[:, column]
    return np.where(np.isfinite(drawn) & (drawn > 0), drawn, value)
