"""Presets set what their papers say, and anything given goes before."""

import pytest

from tatara.config import load
from tatara.errors import ConfigError
from tatara.rl.algorithm import PRESETS, AlgorithmConfig


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_fills_in_what_is_not_given(preset):
    config = load(AlgorithmConfig, {"preset": preset})
    assert {name: getattr(config, name) for name in PRESETS[preset]} == PRESETS[preset]
    given = load(AlgorithmConfig, {"preset": preset}, {"clip_high": "0.5", "mask_truncated": "true"})
    assert (given.clip_high, given.mask_truncated) == (0.5, True)
    # What a manifest holds is the same configuration.
    assert AlgorithmConfig.model_validate(config.dump()) == config


def test_the_published_differences():
    grpo, dr_grpo, dapo, rloo, gspo = (AlgorithmConfig(preset=preset) for preset in PRESETS)
    assert (grpo.normalisation, grpo.scale_by_deviation, grpo.needs_reference) == ("sequence", True, True)
    assert (dr_grpo.normalisation, dr_grpo.scale_by_deviation, dr_grpo.needs_reference) == ("constant", False, False)
    assert (dapo.clip_low, dapo.clip_high, dapo.normalisation, dapo.dynamic_sampling) == (0.2, 0.28, "token", True)
    assert (rloo.advantage, rloo.scale_by_deviation) == ("leave_one_out", False)
    assert gspo.policy_loss().ratio_level == "sequence"


def test_the_trainer_gets_no_divergence_that_went_to_the_reward():
    config = AlgorithmConfig(kl_coefficient=0.1, kl_in="reward", delta=2.0)
    loss = config.policy_loss(0.7)
    assert (loss.kl_coefficient, loss.delta, loss.temperature) == (0.0, 2.0, 0.7)
    assert config.needs_reference


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"preset": "grop"}, "preset: input should be 'grpo'"),
        ({"clip_hi": 0.3}, "clip_hi: unknown key; did you mean 'clip_high'"),
        ({"ratio_base": "behaviour"}, "a correction needs ratio_base=proximal"),
        ({"correction_min": 4.0}, "correction_min 4 must be below correction_max 3"),
        ({"correction_max": None}, "correction token_truncate needs correction_min or correction_max"),
        ({"overlong_window": 5}, "overlong_window has no effect without overlong_penalty"),
        ({"kl_in": "reward", "kl_weighted": True}, "kl_weighted is for kl_in=loss"),
    ],
    ids=["preset", "key", "base", "bounds", "no bound", "window", "weighted"],
)
def test_what_makes_no_sense_is_refused_in_one_line(values, message):
    with pytest.raises(ConfigError, match=message) as refused:
        load(AlgorithmConfig, values)
    assert "\n" not in str(refused.value)
