"""Mixtures of data: a known law is found again, and its best point is the best of a grid."""

import itertools
from pathlib import Path

import numpy as np
import pytest

from tatara.errors import DataError
from tatara.scaling.mixture import (
    MixtureRuns,
    _project,
    best_mixture,
    fit_mixtures,
    parse_bound,
    read_mixtures,
)

SOURCES, SETS = ("web", "code", "math"), ("prose", "programs")
CONSTANTS = np.array([1.5, 0.8])
SLOPES = np.array([[0.2, 1.1, 0.9], [1.0, -0.6, 0.3]])


def measured(count: int, noise: float = 0.0, seed: int = 0) -> MixtureRuns:
    rng = np.random.default_rng(seed)
    shares = rng.dirichlet([1.5, 1.0, 1.0], count)
    losses = (CONSTANTS + np.exp(shares @ SLOPES.T)) * np.exp(rng.normal(0, noise, (count, 2)))
    return MixtureRuns(SOURCES, SETS, shares, losses)


def grid_best(heights: tuple[float, float], low: tuple[float, ...], high: tuple[float, ...]) -> np.ndarray:
    steps = np.linspace(0, 1, 201)
    mixes = np.array([(a, b, 1 - a - b) for a, b in itertools.product(steps, steps) if a + b <= 1 + 1e-9])
    mixes = mixes[((mixes >= np.array(low) - 1e-9) & (mixes <= np.array(high) + 1e-9)).all(axis=1)]
    weighted = (CONSTANTS + np.exp(mixes @ SLOPES.T)) @ np.array(heights)
    return mixes[np.argmin(weighted)]


def test_the_law_and_its_best_mixture_are_found_again() -> None:
    law = fit_mixtures(measured(24), bootstrap=0)
    assert law.form == "exponential"
    assert law.residual.max() < 1e-4
    new = np.array([0.5, 0.3, 0.2])
    assert [loss.value for loss in law.losses(new)] == pytest.approx(CONSTANTS + np.exp(SLOPES @ new), rel=1e-3)
    bounds = {"web": (0.2, 0.8), "code": (0.05, 0.6), "math": (0.05, 0.6)}
    for weights in ({"prose": 1.0, "programs": 1.0}, {"prose": 1.0, "programs": 3.0}):
        found = best_mixture(law, bounds, weights)
        heights = np.array([weights[name] for name in SETS]) / sum(weights.values())
        wanted = grid_best(tuple(heights), (0.2, 0.05, 0.05), (0.8, 0.6, 0.6))
        assert [share.value for share in found.shares.values()] == pytest.approx(wanted, abs=0.02)
        assert sum(share.value for share in found.shares.values()) == pytest.approx(1)


def test_projections_keep_bounds_and_are_the_nearest() -> None:
    """Against the nearest of many mixtures that keep the bounds."""
    rng = np.random.default_rng(3)
    low, high = np.array([0.1, 0.0, 0.05]), np.array([0.7, 0.5, 0.6])
    points = rng.normal(0.3, 0.6, (30, 3))
    found = _project(points, low, high)
    assert found.sum(axis=1) == pytest.approx(np.ones(30))
    assert ((found >= low - 1e-12) & (found <= high + 1e-12)).all()
    others = rng.dirichlet([1, 1, 1], 40000)
    others = others[((others >= low) & (others <= high)).all(axis=1)]
    for point, nearest in zip(points, found, strict=True):
        closest = np.sqrt(((others - point) ** 2).sum(axis=1)).min()
        assert np.linalg.norm(nearest - point) <= closest + 1e-9


def test_intervals_hold_the_best_mixture_and_its_losses() -> None:
    law = fit_mixtures(measured(40, noise=0.003, seed=2), bootstrap=60)
    found = best_mixture(law, {"web": (0.0, 1.0), "code": (0.0, 1.0), "math": (0.0, 1.0)})
    wanted = grid_best((0.5, 0.5), (0, 0, 0), (1, 1, 1))
    for share, truth in zip(found.shares.values(), wanted, strict=True):
        assert share.low - 0.03 <= truth <= share.high + 0.03
    assert found.weighted.value == pytest.approx((CONSTANTS + np.exp(SLOPES @ wanted)).mean(), rel=0.005)
    for loss in found.losses.values():
        assert loss.low <= loss.value <= loss.high


def test_few_runs_give_a_log_linear_law() -> None:
    law = fit_mixtures(measured(5), bootstrap=10)
    assert law.form == "log-linear"
    assert best_mixture(law).weighted.value > 0


def test_what_cannot_be_told_is_refused() -> None:
    with pytest.raises(DataError, match="2 runs cannot tell 3 sources apart: run 5 or more"):
        fit_mixtures(measured(2))
    runs = measured(12)
    law = fit_mixtures(runs, bootstrap=0)
    with pytest.raises(DataError, match="no source 'wbe'; did you mean 'web'"):
        best_mixture(law, {"wbe": (0, 1)})
    with pytest.raises(DataError, match="no validation set 'poems'"):
        best_mixture(law, weights={"poems": 1.0})
    with pytest.raises(DataError, match="the least shares sum to"):
        best_mixture(law, {"web": (0.9, 1.0), "code": (0.9, 1.0), "math": (0.0, 1.0)})


def test_tables_and_bounds(tmp_path: Path) -> None:
    table = tmp_path / "mixes.csv"
    table.write_text("mix.web,mix.code,loss.prose\n3,1,2.5\n1,0,2.6\n0,2,2.9\n")
    runs = read_mixtures(table)
    assert runs.sources == ("web", "code")
    assert runs.shares.tolist() == [[0.75, 0.25], [1, 0], [0, 1]]
    table.write_text("mix.web,mix.code,loss.prose\n3,1,2.5\n1,1,nan\n")
    with pytest.raises(DataError, match=r"mixes.csv:3: loss.prose is nan"):
        read_mixtures(table)
    table.write_text("mix.web,loss\n1,2\n")
    with pytest.raises(DataError, match="two sources or more"):
        read_mixtures(table)
    assert parse_bound("web=0.3:0.9") == ("web", (0.3, 0.9))
    assert parse_bound("web=0.5") == ("web", (0.5, 0.5))
    with pytest.raises(DataError, match="write SOURCE=LEAST:MOST"):
        parse_bound("web")
