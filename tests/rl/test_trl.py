"""The learner's loss and gradients are those of TRL's GRPO, for every variant that both have."""

import multiprocessing

import numpy as np
import pytest

from rl import trl_cases
from rl.trl_cases import VARIANTS

# TRL counts sequences where these are shared by a sequence, and the tokens that the learner leaves out.
BY_TOKEN = [
    name
    for name, each in VARIANTS.items()
    if each.trl.get("importance_sampling_level") != "sequence" and not each.equal_group
]


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    from safetensors.torch import save_file
    from transformers import AutoConfig

    from model.ranks import PRELOADED, run_ranks
    from tatara.model.hf import hf_config
    from tatara.model.spec import ModelSpec

    weights, known, ours = run_ranks(1, trl_cases.ours)[0]
    directory = tmp_path_factory.mktemp("trl")
    AutoConfig.for_model(**hf_config(ModelSpec(**trl_cases.SPEC))).save_pretrained(directory)
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, directory / "model.safetensors")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    with context.Pool(1) as pool:
        theirs = pool.apply_async(trl_cases.theirs, (str(directory), known)).get(timeout=300)
    return ours, theirs


@pytest.mark.parametrize("name", [*VARIANTS, "rloo"])
def test_loss_and_gradients_are_equal(both, name):
    ours, theirs = both
    loss, norm, _, gradients, _ = ours[name]
    expected_loss, _, expected = theirs[name]
    assert loss == pytest.approx(expected_loss, abs=1e-5)
    assert gradients.keys() == expected.keys()
    largest = max(float(np.abs(gradient).max()) for gradient in expected.values())
    assert largest > 1e-3
    for key, gradient in expected.items():
        np.testing.assert_allclose(gradients[key], gradient, rtol=0, atol=1e-5 * max(1.0, largest), err_msg=key)
    squares = sum(float((gradient.astype(np.float64) ** 2).sum()) for gradient in expected.values())
    assert norm == pytest.approx(squares**0.5, rel=1e-5)


@pytest.mark.parametrize("name", BY_TOKEN)
def test_clip_shares_and_entropy_are_equal(both, name):
    figures, metrics = both[0][name][2], both[1][name][1]
    assert figures["entropy"] == pytest.approx(metrics["entropy"], rel=1e-5)
    assert figures["clipped_low"] == pytest.approx(metrics["clip_ratio/low_mean"], abs=1e-6)
    assert figures["clipped_high"] == pytest.approx(metrics["clip_ratio/high_mean"], abs=1e-6)


def test_divergence_from_the_reference_is_equal(both):
    name = "kl in the loss"
    assert both[0][name][2]["kl_reference"] == pytest.approx(both[1][name][1]["kl"], rel=1e-5)


def test_the_cases_clip_correct_and_leave_out(both):
    ours, _ = both
    for name in ("grpo", "gspo", "delta"):
        assert 0 < ours[name][2]["clipped_low"] + ours[name][2]["clipped_high"] < 1
    assert ours["delta"][2]["clipped_delta"] > 0
    for name in ("token_truncate", "token_mask", "sequence_truncate", "sequence_mask"):
        assert 0 < ours[name][2]["corrected"] < 1
    assert ours["grpo with a group all equal"][4] < ours["grpo"][4]
    assert ours["grpo with truncated responses masked"][4] < ours["grpo"][4]
