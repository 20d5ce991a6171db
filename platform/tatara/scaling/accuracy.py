"""From loss to the accuracy on a benchmark: a sigmoid (arXiv:2407.21783 section 3.2.1 and figure 4)."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tatara.errors import DataError
from tatara.scaling.laws import Estimated, estimated
from tatara.scaling.minimise import Index, minimise

Array = npt.NDArray[np.float64]
_FEWEST = 4


@dataclass(frozen=True)
class Sigmoid:
    """``accuracy = chance + (ceiling - chance) / (1 + exp((loss - middle) / width))``.

    Attributes:
        chance: Of a guess; given, not fitted.
        ceiling: At no loss.
        middle: Loss where half of the way is done.
        width: Over how much loss it changes.
        draws: ``[draws, 3]``: ceiling, middle, width.
    """

    chance: float
    ceiling: float
    middle: float
    width: float
    draws: Array

    def at(self, loss: float, losses: Array | None = None) -> Estimated:
        """Accuracy at a loss; ``losses`` are draws of it, whose error then goes into the interval."""
        others = np.full(len(self.draws), loss) if losses is None else np.resize(losses, len(self.draws))
        own = np.array([[self.ceiling, self.middle, self.width]])
        return estimated(
            float(_accuracy(own, self.chance, np.array([loss]))[0]), _accuracy(self.draws, self.chance, others)
        )

    def literals(self) -> dict[str, object]:
        """As JSON has it."""
        values = (self.ceiling, self.middle, self.width)
        names = ("ceiling", "middle", "width")
        fitted = {
            name: estimated(value, self.draws[:, column]).literals()
            for column, (name, value) in enumerate(zip(names, values, strict=True))
        }
        return {"chance": self.chance, **fitted}


def _accuracy(points: Array, chance: float, losses: Array) -> Array:
    ceiling, middle, width = points.T
    return chance + (ceiling - chance) / (1 + np.exp(np.clip((losses - middle) / width, -60, 60)))


def fit_sigmoid(
    pairs: Sequence[tuple[float, float]], chance: float = 0.0, *, bootstrap: int = 200, seed: int = 0
) -> Sigmoid:
    """Least squares from several starts; intervals are a bootstrap over pairs.

    Args:
        pairs: Loss and accuracy, 0 to 1, of at least four models.
        chance: Accuracy of a guess.
        bootstrap: Times that pairs are drawn anew.
        seed: Of those draws.

    Raises:
        DataError: There are too few pairs, or accuracy does not fall as loss grows.
    """
    if len(pairs) < _FEWEST:
        raise DataError(f"a sigmoid needs {_FEWEST} pairs of loss and accuracy, not {len(pairs)}")
    losses, accuracies = np.array(pairs, dtype=np.float64).T
    if float(np.corrcoef(losses, accuracies)[0, 1]) >= 0:
        raise DataError("accuracy does not fall as loss grows: is the loss that of the benchmark's right answers?")
    spread = float(losses.max() - losses.min())

    def values(weights: Array, points: Array, which: Index) -> tuple[Array, Array]:
        # Ceiling between the best accuracy seen and one, width positive: free of bounds as logits and logs.
        free, middle, log_width = (points[:, column, None] for column in range(3))
        share = 1 / (1 + np.exp(-np.clip(free, -40, 40)))
        top = chance + (1 - chance) * share
        width = np.exp(np.clip(log_width, -20, 20))
        scaled = np.clip((losses - middle) / width, -60, 60)
        low = 1 / (1 + np.exp(scaled))
        residual = chance + (top - chance) * low - accuracies
        counted = weights[which] if len(weights) > 1 else weights
        pull = 2 * counted * residual
        slope = (top - chance) * low * (1 - low)
        gradient = (
            pull * low * (1 - chance) * share * (1 - share),
            pull * slope / width,
            pull * slope * scaled,
        )
        return (counted * residual**2).sum(axis=1), np.stack([each.sum(axis=1) for each in gradient], axis=1)

    whole = np.ones((1, len(losses)))
    middles = [float(np.quantile(losses, share)) for share in (0.1, 0.5, 0.9)]
    starts = np.array(list(itertools.product([0.0, 3.0], middles, [math.log(spread * part) for part in (0.1, 0.4)])))
    found, lowest = minimise(lambda points, which: values(whole, points, which), starts, iterations=1000)
    winner = found[np.argmin(lowest)]
    draws = winner[None]
    if bootstrap:
        rng = np.random.default_rng(seed)
        weights = rng.multinomial(len(losses), np.full(len(losses), 1 / len(losses)), bootstrap).astype(np.float64)
        again = np.repeat(winner[None], bootstrap, axis=0)
        draws, _ = minimise(lambda points, which: values(weights, points, which), again, tolerance=1e-8)
    own, others = _bounded(winner[None], chance)[0], _bounded(draws, chance)
    return Sigmoid(chance, float(own[0]), float(own[1]), float(own[2]), others)


def _bounded(points: Array, chance: float) -> Array:
    free, middle, log_width = points.T
    top = chance + (1 - chance) / (1 + np.exp(-np.clip(free, -40, 40)))
    return np.stack([top, middle, np.exp(np.clip(log_width, -20, 20))], axis=1)
