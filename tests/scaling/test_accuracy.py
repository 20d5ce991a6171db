"""From loss to accuracy."""

import numpy as np
import pytest

from tatara.errors import DataError
from tatara.scaling.accuracy import fit_sigmoid


def curve(loss: float) -> float:
    """As of Llama 3's figure 4: from chance to near the top over a few tenths of a nat."""
    return 0.25 + 0.7 / (1 + np.exp((loss - 0.9) / 0.08))


def test_a_sigmoid_is_found_again() -> None:
    losses = np.linspace(0.55, 1.3, 14)
    exact = fit_sigmoid([(loss, curve(loss)) for loss in losses], 0.25, bootstrap=0)
    assert (exact.ceiling, exact.middle, exact.width) == pytest.approx((0.95, 0.9, 0.08), rel=1e-3)
    rng = np.random.default_rng(0)
    noisy = fit_sigmoid([(loss, curve(loss) + rng.normal(0, 0.01)) for loss in losses], 0.25)
    for loss in (0.5, 0.8, 1.0):
        assert noisy.at(loss).low - 0.01 <= curve(loss) <= noisy.at(loss).high + 0.01
    wide = noisy.at(0.9, rng.normal(0.9, 0.1, 2000))
    assert wide.high - wide.low > 2 * (noisy.at(0.9).high - noisy.at(0.9).low)


def test_what_is_no_sigmoid_is_refused() -> None:
    with pytest.raises(DataError, match="needs 4 pairs"):
        fit_sigmoid([(1.0, 0.5)] * 3)
    with pytest.raises(DataError, match="does not fall as loss grows"):
        fit_sigmoid([(1.0, 0.3), (1.1, 0.4), (1.2, 0.5), (1.3, 0.6)])
