"""The policy loss on real gloo ranks: every layout gives what one rank gives, and that is what a float64 loop gives."""

import numpy as np
import pytest

from model.ranks import run_ranks
from train import policy_cases

LAYOUTS = {
    "dp2": (2, {}),
    "tp2": (2, {"tp": 2}),
    "tp2 with sequence parallelism": (2, {"tp": 2, "sequence_parallel": True}),
    "pp2": (2, {"pp": 2}),
    "cp2": (2, {"cp": 2}),
}
LOSSES = ["token", "sequence"]
MOE = {"moe": {"num_experts": 4, "top_k": 2, "expert_ffn_hidden_size": 48, "auxiliary_coefficient": 0.0}}


@pytest.fixture(scope="module")
def alone():
    return run_ranks(1, policy_cases.step, {}, LOSSES)[0]


def assert_equal(ranks, alone):
    results, _, logprobs = alone
    for got_results, first, got_logprobs in ranks:
        np.testing.assert_allclose(got_logprobs, logprobs[first : first + len(got_logprobs)], rtol=1e-5, atol=1e-5)
        for (loss, tokens, norm, figures), (got_loss, got_tokens, got_norm, got) in zip(
            results, got_results, strict=True
        ):
            assert got_tokens == tokens
            assert got_loss == pytest.approx(loss, rel=1e-5, abs=1e-6)
            assert got_norm == pytest.approx(norm, rel=1e-5)
            assert got == pytest.approx(figures, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_gives_what_one_rank_gives(alone, name):
    world, layout = LAYOUTS[name]
    assert_equal(run_ranks(world, policy_cases.step, layout, LOSSES), alone)


def test_experts_in_parallel_give_what_one_rank_gives():
    alone = run_ranks(1, policy_cases.step, {}, ["token"], MOE)[0]
    assert_equal(run_ranks(2, policy_cases.step, {"ep": 2}, ["token"], MOE), alone)


def test_the_cases_clip_and_correct(alone):
    for _, _, _, figures in alone[0]:
        assert 0 < figures["clipped_low"] + figures["clipped_high"] < 1
        assert 0 < figures["corrected"] < 1
        assert figures["ratio_min"] < figures["ratio_mean"] < figures["ratio_max"]


def test_log_probabilities_and_entropy_are_those_of_a_float64_softmax():
    for got, expected, entropy, expected_entropy in run_ranks(1, policy_cases.beside_a_loop)[0]:
        for rows, expected_rows in zip(got, expected, strict=True):
            assert rows.dtype == np.float32
            np.testing.assert_allclose(rows, expected_rows, atol=1e-5)
        assert entropy == pytest.approx(expected_entropy, abs=1e-5)


@pytest.mark.parametrize("layout", [{"tp": 2}, {"pp": 2}], ids=["tp2", "pp2"])
def test_a_reference_is_what_the_weights_were_and_leaves_them_as_they_are(layout):
    for before, after, swapped, back, same in run_ranks(2, policy_cases.swap_a_reference, layout):
        assert np.abs(np.array(after) - np.array(before)).max() > 1e-4
        np.testing.assert_array_equal(swapped, before)
        np.testing.assert_array_equal(back, after)
        assert same
