"""Weights give the loss that each normalisation is defined by."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tatara.errors import DataError
from tatara.rl.token_weights import token_weights

LENGTHS = st.lists(st.integers(0, 12), min_size=1, max_size=10)


def trainer_loss(losses, weights):
    """As the trainer computes it: the weighted sum over the number of tokens with a weight."""
    total = sum(float(weight) * sum(row) for row, weight in zip(losses, weights, strict=True))
    count = sum(len(row) for row, weight in zip(losses, weights, strict=True) if weight)
    return total / count if count else 0.0


def direct_loss(losses, normalisation):
    if normalisation == "token":
        return sum(map(sum, losses)) / max(1, sum(map(len, losses)))
    divided = [sum(row) / (12 if normalisation == "constant" else max(1, len(row))) for row in losses]
    return sum(divided) / len(losses)


@pytest.mark.parametrize("normalisation", ["sequence", "token", "constant"])
@given(LENGTHS, st.integers(0, 2**32), st.data())
def test_the_loss_is_the_one_defined(normalisation, lengths, seed, data):
    random = np.random.default_rng(seed)
    losses = [random.normal(size=length).tolist() for length in lengths]
    weights = token_weights(lengths, normalisation, longest=12)
    assert trainer_loss(losses, weights) == pytest.approx(direct_loss(losses, normalisation), abs=1e-9)
    # What the trainer is not given counts as if it had been, with a loss of zero.
    trained = data.draw(st.lists(st.booleans(), min_size=len(lengths), max_size=len(lengths)))
    weights = token_weights(lengths, normalisation, longest=12, trained=trained)
    kept = [row if use else [0.0] * len(row) for row, use in zip(losses, trained, strict=True)]
    assert trainer_loss(kept, weights) == pytest.approx(direct_loss(kept, normalisation), abs=1e-9)
    assert all(weight == 0 for weight, use in zip(weights, trained, strict=True) if not use)


def test_no_responses_have_no_weights():
    assert token_weights([], "sequence", longest=4).tolist() == []


def test_a_response_longer_than_allowed_is_refused():
    with pytest.raises(DataError, match="a response has 5 trained tokens, but at most 4 are allowed"):
        token_weights([2, 5], "constant", longest=4)
