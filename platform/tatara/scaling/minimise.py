"""Minimisation of smooth functions of a few variables from many starts at once."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.int64]
Objective = Callable[[Array, Index], tuple[Array, Array]]
"""Takes points ``[some, variables]`` and which starts they belong to ``[some]``, gives values ``[some]`` and gradients
``[some, variables]``."""

_ARMIJO = 1e-4
_HALVINGS = 40


def minimise(
    objective: Objective, starts: Array, iterations: int = 300, tolerance: float = 1e-10
) -> tuple[Array, Array]:
    """BFGS with backtracking (Nocedal and Wright, Numerical Optimization, algorithm 6.1) on every start at once.

    With as few variables as a scaling law has, it is L-BFGS that never forgets.

    Args:
        objective: What to minimise. May give infinity where it is not defined.
        starts: ``[starts, variables]``.
        iterations: At most.
        tolerance: A start rests when a step lowers its value by less than this part of it.

    Returns:
        Points ``[starts, variables]`` and values ``[starts]``, in the order of the starts.
    """
    points = np.array(starts, dtype=np.float64)
    count, size = points.shape
    active = np.arange(count)
    values, slopes = objective(points, active)
    inverse = np.repeat(np.eye(size)[None], count, axis=0)
    tired = np.zeros(count, dtype=np.int64)
    for iteration in range(iterations):
        slope = slopes[active]
        direction = -np.einsum("kij,kj->ki", inverse[active], slope)
        uphill = ~(np.einsum("ki,ki->k", direction, slope) < 0)
        inverse[active[uphill]] = np.eye(size)
        direction[uphill] = -slope[uphill]
        length = np.ones(len(active))
        if iteration == 0:
            length /= np.maximum(1.0, np.linalg.norm(direction, axis=1))
        moved, lower, new_slope = _line_search(
            objective, active, points[active], values[active], slope, direction, length
        )
        _update(inverse, active, moved - points[active], new_slope - slope)
        small = values[active] - lower <= tolerance * np.maximum(np.abs(values[active]), 1e-300)
        # Once more from the plain gradient before a start rests: the last curvature may mislead at a kink.
        inverse[active[small & (tired[active] == 0)]] = np.eye(size)
        tired[active] = np.where(small, tired[active] + 1, 0)
        points[active], values[active], slopes[active] = moved, lower, new_slope
        active = active[tired[active] < 2]
        if not len(active):
            break
    return points, values


def _line_search(
    objective: Objective, which: Index, points: Array, values: Array, slopes: Array, direction: Array, length: Array
) -> tuple[Array, Array, Array]:
    """Points, values and gradients after steps that are halved until the value falls enough, or not taken."""
    downhill = np.einsum("ki,ki->k", direction, slopes)
    moved, lower, new_slopes = points.copy(), values.copy(), slopes.copy()
    waiting = np.arange(len(points))
    for _ in range(_HALVINGS):
        tried = points[waiting] + length[waiting, None] * direction[waiting]
        found, found_slopes = objective(tried, which[waiting])
        good = found <= values[waiting] + _ARMIJO * length[waiting] * downhill[waiting]
        taken = waiting[good]
        moved[taken], lower[taken], new_slopes[taken] = tried[good], found[good], found_slopes[good]
        waiting = waiting[~good]
        if not len(waiting):
            break
        length[waiting] /= 2
    return moved, lower, new_slopes


def _update(inverse: Array, which: Index, step: Array, change: Array) -> None:
    """The BFGS update of the inverse Hessians, in place, where curvature is positive."""
    curvature = np.einsum("ki,ki->k", step, change)
    good = curvature > 1e-14 * np.linalg.norm(step, axis=1) * np.linalg.norm(change, axis=1)
    if not good.any():
        return
    moved, changed, rho, rows = step[good], change[good], 1 / curvature[good], which[good]
    left = np.eye(step.shape[1]) - rho[:, None, None] * np.einsum("ki,kj->kij", moved, changed)
    updated = left @ inverse[rows] @ left.transpose(0, 2, 1)
    inverse[rows] = updated + rho[:, None, None] * np.einsum("ki,kj->kij", moved, moved)


def huber(residuals: Array, delta: float) -> tuple[Array, Array]:
    """Huber's loss and its derivative, elementwise: a square up to ``delta``, then a line."""
    inside = np.abs(residuals) <= delta
    values = np.where(inside, residuals**2 / 2, delta * (np.abs(residuals) - delta / 2))
    return values, np.clip(residuals, -delta, delta)
