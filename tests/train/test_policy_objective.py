"""The loss of each token against a loop over rollouts in float64, and what must not break it."""

import math

import numpy as np
import pytest

from tatara.config import load
from tatara.errors import ConfigError, TrainingError
from tatara.train.policy import PolicyLoss

# Row 0: two rollouts and padding; row 1: one rollout.
DOCUMENTS = np.array([[1, 1, 1, 2, 2, 2, 2, 0], [4, 4, 4, 4, 4, 4, 4, 4]])
TRAINED = np.array([[0, 1, 1, 0, 1, 0, 1, 0], [0, 0, 1, 1, 1, 1, 1, 1]], bool)

CASES = {
    "clipped": {"clip_low": 0.1, "clip_high": 0.3},
    "behaviour": {"ratio_base": "behaviour"},
    "sequence": {"ratio_level": "sequence", "clip_low": 0.02, "clip_high": 0.02},
    "delta": {"delta": 1.1},
    "k1": {"kl_coefficient": 0.5, "kl_estimator": "k1"},
    "k2": {"kl_coefficient": 0.5, "kl_estimator": "k2", "kl_weighted": True},
    "k3": {"kl_coefficient": 0.5, "kl_estimator": "k3", "correction": "token_truncate", "correction_max": 1.1},
    "sequence mask": {"correction": "sequence_mask", "correction_min": 0.7, "correction_max": 1.3},
    "lower bound alone": {"correction": "token_mask", "correction_min": 0.9, "correction_max": None},
}


def known():
    random = np.random.default_rng(2)
    logprobs = -random.random(DOCUMENTS.shape) - 0.5
    moved = {name: logprobs + 0.3 * random.normal(size=DOCUMENTS.shape) for name in ("p", "b", "r")}
    advantages = random.normal(size=5)[DOCUMENTS] * TRAINED
    return logprobs, moved["p"], moved["b"], moved["r"], advantages


def objective(settings, *, logprobs=None, reference=True, proximal=True):
    import torch

    from tatara.train.policy_objective import PolicyTerms, policy_objective

    own, old, behaviour, other, advantages = (torch.from_numpy(each) for each in known())
    own = own if logprobs is None else torch.from_numpy(logprobs)
    own = own.clone().requires_grad_()
    terms = PolicyTerms(
        torch.from_numpy(TRAINED),
        advantages,
        behaviour,
        old if proximal else None,
        other if reference else None,
        torch.from_numpy(DOCUMENTS),
        5,
        None,
    )
    losses, measured = policy_objective(own, torch.full(DOCUMENTS.shape, 0.25), terms, settings)
    losses.sum().backward()
    return losses.detach().numpy(), own.grad.numpy(), measured


def loop(settings):
    own, old, behaviour, other, advantages = known()
    losses = np.zeros(DOCUMENTS.shape)
    for place in zip(*np.nonzero(TRAINED), strict=True):
        mine = [at for at in zip(*np.nonzero(TRAINED), strict=True) if DOCUMENTS[at] == DOCUMENTS[place]]
        base = behaviour if settings.ratio_base == "behaviour" else old
        used = mine if settings.ratio_level == "sequence" else [place]
        ratio = math.exp(sum(own[at] - base[at] for at in used) / len(used))
        clipped = min(max(ratio, 1 - settings.clip_low), 1 + settings.clip_high)
        bounded = min(ratio, settings.delta or math.inf)
        weight = 1.0
        if settings.correction != "none":
            used = mine if settings.correction.startswith("sequence") else [place]
            weight = math.exp(sum(old[at] - behaviour[at] for at in used))
            low, high = settings.correction_min or 0.0, settings.correction_max or math.inf
            inside = low <= weight <= high
            weight = (
                weight if inside else (0.0 if settings.correction.endswith("mask") else min(max(weight, low), high))
            )
        losses[place] = -min(bounded * advantages[place], clipped * advantages[place]) * weight
        apart = own[place] - other[place]
        kinds = {"k1": apart, "k2": apart**2 / 2, "k3": math.exp(-apart) - 1 + apart}
        divergence = kinds[settings.kl_estimator] * (ratio if settings.kl_weighted else 1.0)
        losses[place] += settings.kl_coefficient * divergence
    return losses


@pytest.mark.parametrize("name", CASES)
def test_losses_are_those_of_a_loop(name):
    settings = PolicyLoss(**CASES[name])
    losses, _, _ = objective(settings)
    np.testing.assert_allclose(losses, loop(settings), atol=1e-12)


def test_without_proximal_log_probabilities_the_gradient_is_that_of_the_policy():
    losses, gradient, measured = objective(PolicyLoss(), proximal=False)
    advantages = known()[4]
    np.testing.assert_allclose(losses, -advantages, atol=1e-12)
    np.testing.assert_allclose(gradient, -advantages, atol=1e-12)
    assert measured["maxima"][:2].tolist() == [1.0, -1.0]


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_a_ratio_beyond_all_numbers_leaves_gradients_finite(level):
    far = known()[0]
    far[1] += 2000.0
    _, gradient, measured = objective(PolicyLoss(ratio_level=level, correction="sequence_truncate"), logprobs=far)
    assert np.isfinite(gradient).all()
    assert np.isfinite(measured["sums"].numpy()).all()


def test_figures_are_means_over_trained_tokens_and_their_extremes():
    from tatara.train.policy_objective import figures

    own, old, behaviour, other, _ = known()
    _, _, measured = objective(PolicyLoss())
    found = figures(measured["sums"], measured["maxima"], int(TRAINED.sum()))
    ratio = np.exp(own - old)[TRAINED]
    drift, apart = (own - behaviour)[TRAINED], (own - other)[TRAINED]
    expected = {
        "ratio_mean": ratio.mean(),
        "ratio_min": ratio.min(),
        "ratio_max": ratio.max(),
        "kl_behaviour": (np.exp(drift) - 1 - drift).mean(),
        "kl_reference": (np.exp(-apart) - 1 + apart).mean(),
        "entropy": 0.25,
        "mismatch_mean": np.abs(old - behaviour)[TRAINED].mean(),
        "mismatch_max": np.abs(old - behaviour)[TRAINED].max(),
        "correction_mean": 1.0,
        "corrected": 0.0,
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    assert figures(measured["sums"], measured["maxima"], 0) == {}


def test_a_divergence_without_a_reference_stops():
    with pytest.raises(TrainingError, match="the loss has a kl_coefficient, but the batch has no reference"):
        objective(PolicyLoss(kl_coefficient=0.1), reference=False)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"correction": "token_mask", "ratio_base": "behaviour"}, "a correction needs ratio_base=proximal"),
        ({"correction_min": 3.0}, "correction_min 3 must be below correction_max 3"),
        ({"correction": "token_truncate", "correction_max": None}, "needs correction_min or correction_max"),
        ({"delta": 0.9}, "delta: input should be greater than 1"),
        ({"temperature": 0.0}, "temperature: input should be greater than 0"),
    ],
    ids=["base", "bounds", "no bound", "delta", "temperature"],
)
def test_settings_that_make_no_sense_are_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        load(PolicyLoss, values)
