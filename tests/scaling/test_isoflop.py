"""IsoFLOP curves: published laws are found again, and what cannot be told is refused."""

import math

import numpy as np
import pytest

from scaling.surfaces import BUDGETS, CHINCHILLA, REPLICATED, best_size, runs_of
from tatara.errors import DataError
from tatara.scaling.isoflop import budgets, fit_isoflop, fit_parabola
from tatara.scaling.laws import estimated, fit_power_law, fit_saturating
from tatara.scaling.table import Run

# Tables 3 and A3 of arXiv:2203.15556: compute and tokens for models of so many parameters, by approach.
SIZES = (400e6, 1e9, 10e9, 67e9, 175e9, 280e9, 520e9, 1e12, 10e12)
APPROACHES = [
    (0.50, (1.92e19, 1.21e20, 1.23e22, 5.76e23, 3.85e24, 9.90e24, 3.43e25, 1.27e26, 1.30e28)),
    (0.49, (1.84e19, 1.20e20, 1.32e22, 6.88e23, 4.54e24, 1.18e25, 4.19e25, 1.59e26, 1.75e28)),
    (0.46, (2.21e19, 1.62e20, 2.46e22, 1.71e24, 1.26e25, 3.52e25, 1.36e26, 5.65e26, 8.55e28)),
]


@pytest.mark.parametrize(("exponent", "compute"), APPROACHES)
def test_chinchillas_tables_give_their_published_exponents(exponent: float, compute: tuple[float, ...]) -> None:
    law = fit_power_law(np.array(compute), np.array(SIZES))
    assert law.exponent == pytest.approx(exponent, abs=0.006)
    for budget, size in zip(compute, SIZES, strict=True):
        assert law.at(budget).value == pytest.approx(size, rel=0.1)


def llama_3_runs(noise: float, seed: int) -> list[Run]:
    """Parabolas over tokens whose minima follow the published law, tokens = 0.29 x compute^0.53."""
    rng = np.random.default_rng(seed)
    runs = []
    for compute in BUDGETS:
        best = 0.29 * compute**0.53
        for factor in np.exp(np.linspace(-1.5, 1.5, 9)):
            loss = 0.5 + 4 * (compute / 1e19) ** -0.06 + 0.05 * math.log(factor) ** 2 + rng.normal(0, noise)
            tokens = best * float(factor)
            runs.append(Run(compute / (6 * tokens), tokens, compute, loss))
    return runs


def test_llama_3s_law_is_found_again() -> None:
    """arXiv:2407.21783 section 3.2.1: (alpha, A) = (0.53, 0.29). At 3.8e25 FLOPs these make 10.5T tokens; the paper's
    16.55T do not follow from them, nor from anything that rounds to them."""
    exact = fit_isoflop(llama_3_runs(0.0, 0), "tokens")
    assert exact.law is not None
    assert exact.law.exponent == pytest.approx(0.53, abs=1e-9)
    assert exact.law.coefficient == pytest.approx(0.29, rel=1e-6)
    assert exact.law.at(3.8e25).value == pytest.approx(0.29 * 3.8e25**0.53, rel=1e-6)
    assert exact.law.at(3.8e25).value == pytest.approx(1.05e13, rel=0.01)


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    exponents = tokens = 0
    for seed in range(20):
        law = fit_isoflop(llama_3_runs(0.01, seed), "tokens", draws=200, seed=seed).law
        assert law is not None
        exponents += 0.53 in estimated(law.exponent, law.draws[:, 1])
        tokens += 0.29 * 3.8e25**0.53 in law.at(3.8e25)
    # 95 % of 20 is 19; 15 or fewer would happen three times in a thousand.
    assert min(exponents, tokens) >= 16


@pytest.mark.parametrize("constants", [CHINCHILLA, REPLICATED])
@pytest.mark.parametrize("axis", ["parameters", "tokens"])
def test_minima_and_law_of_a_known_surface(constants: tuple[float, ...], axis: str) -> None:
    found = fit_isoflop(runs_of(constants, reach=2), axis)  # type: ignore[arg-type]
    assert found.warnings == ()
    alpha, beta = constants[3:]
    size = beta / (alpha + beta)
    assert found.law is not None
    assert found.law.exponent == pytest.approx(size if axis == "parameters" else 1 - size, abs=0.005)
    for parabola in found.parabolas:
        best = best_size(constants, parabola.budget)
        wanted = best if axis == "parameters" else parabola.budget / (6 * best)
        assert parabola.best.value == pytest.approx(wanted, rel=0.05)


def test_a_loss_is_extrapolated_with_its_floor() -> None:
    found = fit_isoflop(runs_of(REPLICATED, noise=0.001, reach=2), "tokens")
    assert found.loss is not None
    best = best_size(REPLICATED, 3.8e25)
    truth = REPLICATED[0] + REPLICATED[1] / best ** REPLICATED[3]
    truth += REPLICATED[2] / (3.8e25 / 6 / best) ** REPLICATED[4]
    assert truth in found.loss.at(3.8e25)
    assert found.loss.at(3.8e25).value == pytest.approx(truth, rel=0.02)


def test_a_law_with_a_floor_is_found_again() -> None:
    x = np.geomspace(1e18, 1e22, 7)
    y = 1.7 + 0.9 * (x / 1e20) ** -0.11
    found = fit_saturating(x, y, np.repeat(y[None], 3, axis=0))
    assert (found.floor, found.factor, found.exponent) == pytest.approx((1.7, 0.9, 0.11), rel=0.02)
    assert found.at(1e25).value == pytest.approx(1.7 + 0.9 * 1e5**-0.11, rel=1e-3)


def test_budgets_are_told_apart() -> None:
    runs = [Run(1e6, 1e9, compute, 3.0) for compute in (1e18, 1.05e18, 2e18, 2.1e18, 1e19)]
    assert [len(group) for group in budgets(runs)] == [2, 2, 1]


def test_a_minimum_at_the_edge_is_left_out_and_one_budget_gives_no_law() -> None:
    runs = runs_of(REPLICATED, budgets=(1e19, 1e20))
    # Only sizes below the best one.
    cut = [run for run in runs if run.compute == 1e19 or run.parameters < 0.8 * best_size(REPLICATED, 1e20)]
    found = fit_isoflop(cut, "parameters")
    assert found.law is None
    assert any("1e+20" in line and "at or above the largest size: add larger ones" in line for line in found.warnings)
    assert any("needs two or more, so none is fitted" in line for line in found.warnings)


def test_two_budgets_give_a_law_but_no_loss() -> None:
    found = fit_isoflop(runs_of(REPLICATED, budgets=(1e19, 1e20)), "parameters")
    assert found.law is not None
    assert found.loss is None
    assert any("the loss is not extrapolated" in line for line in found.warnings)


def test_curves_without_a_minimum_say_so() -> None:
    downwards = [Run(size, 1e18 / 6 / size, 1e18, 3 - 0.1 * math.log(size / 1e7) ** 2) for size in (1e6, 1e7, 1e8, 2e8)]
    assert "opens downwards" in fit_parabola(downwards, "parameters").problem
    rng = np.random.default_rng(0)
    flat = [Run(size, 1e18 / 6 / size, 1e18, 3 + rng.normal(0, 0.1)) for size in np.geomspace(1e7, 2e7, 6)]
    assert fit_parabola(flat, "parameters").problem
    with pytest.raises(DataError, match=r"1e\+18 FLOPs has 2 sizes: a parabola needs three"):
        fit_parabola(downwards[:2], "parameters")
    with pytest.raises(DataError, match="at least two different budgets"):
        fit_power_law(np.array([1e18, 1e18]), np.array([1.0, 2.0]))
