"""The parametric law, on runs drawn from published constants."""

import itertools

import numpy as np
import pytest

from scaling.surfaces import CHINCHILLA, REPLICATED, best_size, runs_of
from tatara.errors import DataError
from tatara.scaling.minimise import minimise
from tatara.scaling.parametric import fit_parametric
from tatara.scaling.prediction import analyse, predict
from tatara.scaling.table import Run


@pytest.mark.parametrize("constants", [CHINCHILLA, REPLICATED])
def test_constants_are_found_again(constants: tuple[float, ...]) -> None:
    exact = fit_parametric(runs_of(constants), bootstrap=0)
    assert exact.constants() == pytest.approx(constants, rel=1e-3)
    noisy = fit_parametric(runs_of(constants, noise=0.003, seed=1), bootstrap=100)
    for value, draws in zip(constants, noisy.draws.T, strict=True):
        low, high = np.quantile(draws, [0.005, 0.995])
        assert low < value < high
    size, tokens, loss = noisy.best(3.8e25)
    truth = best_size(constants, 3.8e25)
    assert truth in size
    assert 3.8e25 / 6 / truth in tokens
    assert loss.low < loss.value < loss.high


def test_the_best_of_a_budget_is_the_lowest_loss_along_it() -> None:
    found = fit_parametric(runs_of(REPLICATED), bootstrap=0)
    size, tokens, loss = found.best(1e24)
    assert size.value == pytest.approx(best_size(found.constants(), 1e24), rel=1e-3)
    assert 6 * size.value * tokens.value == pytest.approx(1e24)
    assert loss.value == pytest.approx(found.loss(size.value, tokens.value).value)


def test_an_outlier_hardly_matters() -> None:
    runs = runs_of(REPLICATED, noise=0.001)
    spoiled = [*runs[:-1], type(runs[-1])(runs[-1].parameters, runs[-1].tokens, runs[-1].compute, 9.0)]
    found = fit_parametric(spoiled, bootstrap=0)
    assert found.size_exponent == pytest.approx(REPLICATED[3], abs=0.02)


def test_too_few_runs_or_kinds_are_refused() -> None:
    runs = runs_of(REPLICATED)
    with pytest.raises(DataError, match="needs 8 runs of 3 sizes and 3 numbers of tokens, not 7"):
        fit_parametric(runs[:7])
    same = [type(run)(1e8, run.tokens, 6e8 * run.tokens, run.loss) for run in runs]
    with pytest.raises(DataError, match="not 90 of 1"):
        fit_parametric(same)


def test_the_minimiser_finds_the_bottom_of_a_curved_valley() -> None:
    """Rosenbrock's function, in many starts at once."""

    def valley(points: np.ndarray, _: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        x, y = points.T
        values = (1 - x) ** 2 + 100 * (y - x**2) ** 2
        return values, np.stack([-2 * (1 - x) - 400 * x * (y - x**2), 200 * (y - x**2)], axis=1)

    starts = np.random.default_rng(0).uniform(-2, 2, (20, 2))
    points, values = minimise(valley, starts, iterations=500, tolerance=1e-14)
    assert points == pytest.approx(np.ones((20, 2)), abs=1e-4)
    assert values.max() < 1e-9


def test_runs_that_do_not_determine_the_law_say_so(recwarn: pytest.WarningsRecorder) -> None:
    """Eight runs close to each other, with as much noise as signal."""
    rng = np.random.default_rng(0)
    runs = [Run(size, tokens, 6 * size * tokens, 3 + rng.normal(0, 0.1)) for size, tokens in
            itertools.product((1e6, 1.1e6, 1.2e6), (1e8, 1.1e8, 1.2e8))]  # fmt: skip
    found = analyse(runs, draws=50, bootstrap=50)
    assert any("the runs hardly determine the parametric law" in line for line in found.warnings)
    assert [found.loss is not None for found in predict(found, 1e18)] == [True]
    assert not recwarn.list
