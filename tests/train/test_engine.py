"""The engine on real gloo ranks: every layout gives the losses of one rank."""

import math

import pytest

from model.ranks import run_ranks
from train import engine_cases
from train.tokens_cases import VOCABULARY, write_tokens

STEPS = 4
LAYOUTS = {
    "dp2": {},
    "tp2": {"tp": 2},
    "tp2 with sequence parallelism": {"tp": 2, "sequence_parallel": True},
    "pp2": {"pp": 2},
    "pp2 interleaved": {"pp": 2, "virtual_stages": 2},
    "cp2": {"cp": 2},
}


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    return str(write_tokens(tmp_path_factory.mktemp("engine") / "tokens"))


@pytest.fixture(scope="module")
def alone(tokens):
    return run_ranks(1, engine_cases.train, tokens, {}, STEPS)[0]


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_of_two_ranks_gives_the_losses_of_one(tokens, alone, name):
    ranks = run_ranks(2, engine_cases.train, tokens, LAYOUTS[name], STEPS)
    steps, (validation, validation_tokens) = alone
    for got_steps, (got_validation, got_tokens) in ranks:
        for (loss, count, norm), (got_loss, got_count, got_norm) in zip(steps, got_steps, strict=True):
            assert got_count == count
            assert got_loss == pytest.approx(loss, rel=1e-5)
            assert got_norm == pytest.approx(norm, rel=1e-4)
        assert got_tokens == validation_tokens
        assert got_validation == pytest.approx(validation, rel=1e-5)


@pytest.mark.slow
def test_all_dimensions_together(tokens, alone):
    ranks = run_ranks(8, engine_cases.train, tokens, {"tp": 2, "pp": 2, "cp": 2}, 2)
    for got_steps, _ in ranks:
        assert [step[0] for step in got_steps] == pytest.approx([step[0] for step in alone[0][:2]], rel=1e-5)


def test_it_starts_at_chance_and_learns(tokens):
    steps, _ = run_ranks(1, engine_cases.train, tokens, {}, 60, {"init_std": 0.02})[0]
    assert steps[0][0] == pytest.approx(math.log(VOCABULARY), abs=0.1)
    assert steps[-1][0] < math.log(VOCABULARY) - 2


def test_a_layout_that_does_not_fit_is_refused(tokens):
    assert run_ranks(1, engine_cases.fail_to_load, tokens, {"tp": 3}) == [
        "LayoutError: layout.tp=3 does not divide num_query_groups=2 (these do: 1, 2)"
    ]
    message = run_ranks(1, engine_cases.fail_to_load, tokens, {"pp": 2})[0]
    assert message.startswith("LayoutError: layout.tp=1 x layout.pp=2 x layout.cp=1 needs a multiple of 2 workers")
