"""Which mixture of sources gives the lowest loss: a law of mixtures from small runs, and its best point.

The law is ``L_v(r) = c_v + exp(t_v . r)`` for the shares ``r`` of the sources and the loss on each validation set
``v`` (arXiv:2403.16952 equation 7, whose factor is part of ``t`` here, since shares sum to one). With few runs it is
log-linear, ``c = 0``. Either is convex in the shares, so the best mixture under bounds is one place, found by projected
gradients.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tatara.config import nearest
from tatara.errors import DataError
from tatara.scaling.laws import Estimated, estimated
from tatara.scaling.minimise import Index, minimise
from tatara.scaling.table import number, read_rows

Array = npt.NDArray[np.float64]
_SHARE, _LOSS = "mix.", "loss."
_STEPS = 2000


@dataclass(frozen=True)
class MixtureRuns:
    """Runs of one size and budget on different mixtures.

    Attributes:
        sources: Names.
        validations: Names of the validation sets.
        shares: ``[runs, sources]``, each row sums to one.
        losses: ``[runs, validations]``, nats per token.
    """

    sources: tuple[str, ...]
    validations: tuple[str, ...]
    shares: Array
    losses: Array


def read_mixtures(path: str | Path) -> MixtureRuns:
    """Read a table with the columns ``mix.SOURCE`` (weights of any sum) and ``loss.SET`` (or one ``loss``).

    Raises:
        DataError: A column is missing, a cell is no number, or a row has no weight; the message names the line.
    """
    rows = read_rows(path)
    columns = list(rows[0][1])
    sources = [name for name in columns if name.startswith(_SHARE)]
    losses = [name for name in columns if name == "loss" or name.startswith(_LOSS)]
    if len(sources) < 2 or not losses:
        raise DataError(f"{path}: columns mix.SOURCE of two sources or more, and loss or loss.SET, are needed")
    shares, measured = [], []
    for line, row in rows:
        weights = [0.0 if str(row.get(name) or 0).strip() in ("0", "0.0") else number(path, line, name, row[name])
                   for name in sources]  # fmt: skip
        if sum(weights) <= 0:
            raise DataError(f"{path}:{line}: no source has weight")
        shares.append([weight / sum(weights) for weight in weights])
        measured.append([number(path, line, name, row.get(name)) for name in losses])
    return MixtureRuns(
        tuple(name.removeprefix(_SHARE) for name in sources),
        tuple(name.removeprefix(_LOSS) for name in losses),
        np.array(shares),
        np.array(measured),
    )


@dataclass(frozen=True)
class MixtureLaw:
    """What was fitted.

    Attributes:
        runs: On what.
        constants: ``[validations]``: c.
        slopes: ``[validations, sources]``: t.
        draws: ``[draws, validations, 1 + sources]``: c and t as the data would also have allowed.
        residual: ``[validations]``: root mean square of the log of measured over fitted.
        form: ``exponential`` or ``log-linear``.
    """

    runs: MixtureRuns
    constants: Array
    slopes: Array
    draws: Array
    residual: Array
    form: str

    def losses(self, shares: Array) -> list[Estimated]:
        """Of a mixture, by validation set."""
        own = self.constants + np.exp(self.slopes @ shares)
        others = self.draws[:, :, 0] + np.exp(self.draws[:, :, 1:] @ shares)
        return [estimated(float(value), others[:, column]) for column, value in enumerate(own)]


def fit_mixtures(runs: MixtureRuns, *, bootstrap: int = 100, seed: int = 0) -> MixtureLaw:
    """Fit the law of each validation set; intervals are a bootstrap over runs.

    Raises:
        DataError: There are fewer runs than sources, or they are mixtures of fewer.
    """
    count, sources = runs.shares.shape
    if np.linalg.matrix_rank(runs.shares, tol=1e-6) < sources or count < sources:
        raise DataError(
            f"{count} runs cannot tell {sources} sources apart: run {sources + 2} or more mixtures that differ in each"
        )
    exponential = count >= sources + 3
    rng = np.random.default_rng(seed)
    weights = _resampled(runs.shares, rng, bootstrap)
    own, draws, residuals = [], [], []
    for column in range(len(runs.validations)):
        logs = np.log(runs.losses[:, column])
        fit = _fit_one(runs.shares, logs, np.ones((1, count)), exponential)
        others = _fit_one(runs.shares, logs, weights, exponential, fit) if bootstrap else fit
        own.append(fit[0])
        draws.append(others)
        fitted = fit[0, 0] + np.exp(runs.shares @ fit[0, 1:])
        residuals.append(float(np.sqrt(np.mean((np.log(fitted) - logs) ** 2))))
    table = np.stack(own)
    return MixtureLaw(
        runs,
        table[:, 0],
        table[:, 1:],
        np.stack(draws, axis=1),
        np.array(residuals),
        "exponential" if exponential else "log-linear",
    )


def _resampled(shares: Array, rng: np.random.Generator, draws: int) -> Array:
    """How often each run counts in each draw; draws that cannot tell the sources apart are drawn again."""
    count, sources = shares.shape
    kept: list[Array] = []
    for _ in range(100 * draws):
        if len(kept) == draws:
            break
        times = rng.multinomial(count, np.full(count, 1 / count)).astype(np.float64)
        if np.linalg.matrix_rank(shares[times > 0], tol=1e-6) == sources:
            kept.append(times)
    return np.stack(kept) if kept else np.ones((1, count))


def _fit_one(shares: Array, logs: Array, weights: Array, exponential: bool, start: Array | None = None) -> Array:
    """C and t of one validation set, ``[weights, 1 + sources]``: least squares of the logs."""
    root = np.sqrt(weights)[:, :, None]
    linear = np.stack([np.linalg.lstsq(each * shares, each[:, 0] * logs, rcond=None)[0] for each in root])
    if not exponential:
        return np.concatenate([np.zeros((len(weights), 1)), linear], axis=1)

    def value(points: Array, which: Index) -> tuple[Array, Array]:
        # c is positive: its log is free.
        constant = np.exp(np.clip(points[:, :1], -30, 5))
        growing = np.exp(np.clip(points[:, 1:] @ shares.T, -30, 30))
        total = constant + growing
        residual = np.log(total) - logs
        pull = 2 * weights[which] * residual / total
        slopes = np.concatenate([(pull.sum(axis=1, keepdims=True) * constant), (pull * growing) @ shares], axis=1)
        return (weights[which] * residual**2).sum(axis=1), slopes

    lowest = float(logs.min())
    starts = []
    for part in (1e-3, 0.3, 0.6, 0.85):
        constant = part * np.exp(lowest)
        rest = np.log(np.exp(logs) - constant)
        slopes = np.linalg.lstsq(shares, rest, rcond=None)[0]
        starts.append(np.concatenate([[np.log(constant)], slopes]))
    tried = np.stack(starts)
    found, values = [], []
    iterations = 800
    if start is not None:
        # Draws are near the fit: they start from it.
        tried, iterations = np.concatenate([np.log(np.maximum(start[:, :1], 1e-6)), start[:, 1:]], axis=1), 200
    for begin in tried:
        points, lows = minimise(value, np.repeat(begin[None], len(weights), axis=0), iterations=iterations)
        found.append(points)
        values.append(lows)
    best = np.argmin(np.stack(values), axis=0)
    chosen = np.stack(found)[best, np.arange(len(weights))]
    return np.concatenate([np.exp(chosen[:, :1]), chosen[:, 1:]], axis=1)


@dataclass(frozen=True)
class BestMixture:
    """The mixture with the lowest weighted loss.

    Attributes:
        shares: By source, with intervals.
        losses: By validation set.
        weighted: The weighted mean of those.
    """

    shares: dict[str, Estimated]
    losses: dict[str, Estimated]
    weighted: Estimated


def best_mixture(
    law: MixtureLaw,
    bounds: Mapping[str, tuple[float, float]] | None = None,
    weights: Mapping[str, float] | None = None,
) -> BestMixture:
    """Minimise the weighted mean of the losses over mixtures.

    Args:
        law: What was fitted.
        bounds: Least and largest share by source; by default what the runs had.
        weights: Of validation sets; by default equal.

    Raises:
        DataError: A name is not known, or no mixture keeps the bounds.
    """
    sources, validations = law.runs.sources, law.runs.validations
    for name in bounds or {}:
        if name not in sources:
            raise DataError(f"no source '{name}'; {nearest(name, sources)}")
    for name in weights or {}:
        if name not in validations:
            raise DataError(f"no validation set '{name}'; {nearest(name, validations)}")
    low, high = law.runs.shares.min(axis=0), law.runs.shares.max(axis=0)
    for index, name in enumerate(sources):
        if name in (bounds or {}):
            low[index], high[index] = (bounds or {})[name]
    if low.sum() > 1 + 1e-9 or high.sum() < 1 - 1e-9 or bool((low > high).any()):
        raise DataError(f"no mixture keeps the bounds: the least shares sum to {low.sum():.3g}, the largest to "
                        f"{high.sum():.3g}")  # fmt: skip
    heights = np.array([float((weights or {}).get(name, 0.0 if weights else 1.0)) for name in validations])
    if heights.sum() <= 0:
        raise DataError("the validation sets have no weight")
    heights /= heights.sum()
    own = np.concatenate([law.constants[:, None], law.slopes], axis=1)[None]
    (best,) = _descend(own, heights, low, high)
    others = _descend(law.draws, heights, low, high)
    losses = law.losses(best)
    drawn = law.draws[:, :, 0] + np.exp(law.draws[:, :, 1:] @ best)
    return BestMixture(
        {name: estimated(float(best[index]), others[:, index]) for index, name in enumerate(sources)},
        dict(zip(validations, losses, strict=True)),
        estimated(float(sum(weight * loss.value for weight, loss in zip(heights, losses, strict=True))),
                  drawn @ heights),
    )  # fmt: skip


def _descend(laws: Array, heights: Array, low: Array, high: Array) -> Array:
    """Projected gradients with a step that shrinks: ``[laws, sources]``."""
    slopes = laws[:, :, 1:]
    shares = np.repeat(_project((low + high)[None] / 2, low, high), len(laws), axis=0)
    # The largest curvature bounds the step that always descends.
    steep = np.exp(slopes.max(axis=2)) * (slopes**2).sum(axis=2)
    step = 1 / np.maximum((steep * heights).sum(axis=1), 1e-12)
    momentum, before = 1.0, shares
    for _ in range(_STEPS):
        following = (1 + np.sqrt(1 + 4 * momentum**2)) / 2
        ahead = shares + (momentum - 1) / following * (shares - before)
        growing = np.exp(np.einsum("kvs,ks->kv", slopes, ahead)) * heights
        moved = _project(ahead - step[:, None] * np.einsum("kv,kvs->ks", growing, slopes), low, high)
        done = float(np.abs(moved - shares).max())
        before, shares, momentum = shares, moved, following
        if done < 1e-8:
            break
    return shares


def _project(points: Array, low: Array, high: Array) -> Array:
    """The nearest points whose coordinates keep their bounds and sum to one.

    These are the points less one shift, clipped. Their sum falls with the shift, in a line between the shifts where a
    coordinate meets a bound.
    """
    shifts = np.sort(np.concatenate([points - high, points - low], axis=1), axis=1)
    sums = np.clip(points[:, None] - shifts[:, :, None], low, high).sum(axis=2)
    rows = np.arange(len(points))
    after = np.clip((sums > 1).sum(axis=1), 1, shifts.shape[1] - 1)
    fallen = sums[rows, after - 1] - sums[rows, after]
    share = np.where(fallen > 0, (sums[rows, after - 1] - 1) / np.where(fallen > 0, fallen, 1.0), 0.0)
    shift = shifts[rows, after - 1] + np.clip(share, 0, 1) * (shifts[rows, after] - shifts[rows, after - 1])
    return np.clip(points - shift[:, None], low, high)


def parse_bound(text: str) -> tuple[str, tuple[float, float]]:
    """``web=0.3:0.9`` as a source's name with its bounds; ``web=0.5`` fixes it.

    Raises:
        DataError: It is not written so.
    """
    found = re.fullmatch(r"([^=]+)=([\d.]+)(?::([\d.]+))?", text)
    if found is None:
        raise DataError(f"{text!r} is no bound: write SOURCE=LEAST:MOST, such as web=0.3:0.9")
    low = float(found[2])
    return found[1], (low, float(found[3]) if found[3] else low)
