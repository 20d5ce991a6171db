"""The engine on real gloo ranks: every layout gives the losses of one rank, and one rank those of a plain loop."""

import math

import pytest

from model.ranks import run_ranks
from tatara.model.compute import ComputeSettings
from train import engine_cases
from train.tokens_cases import VOCABULARY, write_tokens

STEPS = 20
DENSE = {
    "dp2": (2, {}),
    "tp2": (2, {"tp": 2}),
    "tp2 with sequence parallelism": (2, {"tp": 2, "sequence_parallel": True}),
    "pp2": (2, {"pp": 2}),
    "pp2 interleaved": (2, {"pp": 2, "virtual_stages": 2}),
    "pp2 uneven": (2, {"pp": 2, "first_stage_layers": 1, "last_stage_layers": 3}),
    "cp2": (2, {"cp": 2}),
    "cp2 by heads": (2, {"cp": 2}),
    "tp2 pp2": (4, {"tp": 2, "pp": 2}),
    "tp2 cp2": (4, {"tp": 2, "cp": 2, "sequence_parallel": True}),
    "pp2 dp2": (4, {"pp": 2}),
    "tp2 pp2 cp2": (8, {"tp": 2, "pp": 2, "cp": 2}),
}
EXPERTS = {
    "ep2": (2, {"ep": 2}),
    "dp2": (2, {}),
    "pp2": (2, {"pp": 2}),
    "cp2 ep2": (2, {"cp": 2, "ep": 2}),
    "tp2 ep2": (2, {"tp": 2, "sequence_parallel": True, "ep": 2}),
    "pp2 ep2": (4, {"pp": 2, "ep": 2}),
}
# The auxiliary loss is a mean over each rank's tokens, so it depends on the layout; see model/megatron.py.
MOE = {"moe": {"num_experts": 4, "top_k": 2, "expert_ffn_hidden_size": 48, "auxiliary_coefficient": 0.0}}


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    return str(write_tokens(tmp_path_factory.mktemp("engine") / "tokens"))


@pytest.fixture(scope="module")
def alone(tokens):
    return run_ranks(1, engine_cases.train, tokens, {}, STEPS)[0]


@pytest.fixture(scope="module")
def experts_alone(tokens):
    return run_ranks(1, engine_cases.train, tokens, {}, STEPS, MOE)[0]


def assert_equal(ranks, alone):
    steps, (validation, validation_tokens) = alone
    for got_steps, (got_validation, got_tokens) in ranks:
        for (loss, count, norm), (got_loss, got_count, got_norm) in zip(steps, got_steps, strict=True):
            assert got_count == count
            assert got_loss == pytest.approx(loss, rel=1e-5)
            assert got_norm == pytest.approx(norm, rel=1e-5)
        assert got_tokens == validation_tokens
        assert got_validation == pytest.approx(validation, rel=1e-5)


@pytest.mark.parametrize("name", DENSE)
def test_a_layout_gives_the_losses_of_one_rank(tokens, alone, name):
    world, layout = DENSE[name]
    compute = ComputeSettings(context_exchange="a2a" if "by heads" in name else "allgather")
    assert_equal(run_ranks(world, engine_cases.train, tokens, layout, STEPS, {}, compute), alone)


@pytest.mark.parametrize("stages", [2, 4])
def test_ends_of_one_layer_fewer_in_an_interleaved_pipeline(tokens, stages):
    """As Llama 3: with chunks of one layer, the first and the last chunk hold none."""
    six = {"num_layers": 6}
    layout = {"pp": 2, "virtual_stages": stages, "first_stage_layers": 3, "last_stage_layers": 3}
    alone = run_ranks(1, engine_cases.train, tokens, {}, 5, six)[0]
    assert_equal(run_ranks(2, engine_cases.train, tokens, layout, 5, six), alone)


@pytest.mark.parametrize("name", EXPERTS)
def test_a_layout_of_experts_gives_the_losses_of_one_rank(tokens, experts_alone, name):
    world, layout = EXPERTS[name]
    assert_equal(run_ranks(world, engine_cases.train, tokens, layout, STEPS, MOE), experts_alone)


@pytest.mark.parametrize("changes", [{}, MOE], ids=["dense", "experts"])
def test_one_rank_gives_the_losses_of_a_hugging_face_model_in_a_plain_loop(tokens, changes):
    (ours, reference) = run_ranks(1, engine_cases.beside_hugging_face, tokens, STEPS, changes)[0]
    for (loss, _, norm), (expected_loss, expected_norm) in zip(ours, reference, strict=True):
        assert loss == pytest.approx(expected_loss, rel=1e-4)
        assert norm == pytest.approx(expected_norm, rel=1e-4)


def test_a_tied_table_is_one_table_under_pipeline_parallelism(tokens):
    tied = {"tie_word_embeddings": True}
    alone = run_ranks(1, engine_cases.train, tokens, {}, STEPS, tied)[0]
    assert_equal(run_ranks(2, engine_cases.train, tokens, {"pp": 2}, STEPS, tied), alone)


def test_bfloat16_keeps_float32_in_the_optimizer(tokens, alone):
    rounded = run_ranks(2, engine_cases.train, tokens, {}, STEPS, {"dtype": "bfloat16"})[0]
    losses, exact = ([step[0] for step in steps] for steps in (rounded[0], alone[0]))
    assert losses == pytest.approx(exact, rel=0.02)
    assert losses != pytest.approx(exact, rel=1e-5)


@pytest.mark.parametrize("recompute", ["selective", "full"])
def test_recomputation_changes_no_loss(tokens, alone, recompute):
    ranks = run_ranks(1, engine_cases.train, tokens, {}, STEPS, {}, ComputeSettings(recompute=recompute))
    assert_equal(ranks, alone)


def test_frozen_parameters_stay_and_rates_differ(tokens):
    moved = run_ranks(1, engine_cases.moved, tokens)[0]
    assert moved["frozen"] == 0.0
    assert moved["slow"] == pytest.approx(moved["fast"] / 10, rel=0.3)


def test_it_starts_at_chance_and_learns(tokens):
    steps, _ = run_ranks(1, engine_cases.train, tokens, {}, 60, {"init_std": 0.02})[0]
    assert steps[0][0] == pytest.approx(math.log(VOCABULARY), abs=0.1)
    assert steps[-1][0] < math.log(VOCABULARY) - 2


def test_a_step_that_is_not_approved_moves_nothing(tokens):
    changes = {"moe": MOE["moe"] | {"score": "sigmoid", "balancing": "bias"}}
    before, after, asked, applied = run_ranks(1, engine_cases.refuse_a_step, tokens, changes)[0]
    assert before == after
    assert not applied
    assert asked[0] == pytest.approx(math.log(VOCABULARY), rel=0.2)
    assert asked[1] > 0


def test_a_layout_that_does_not_fit_is_refused(tokens):
    assert run_ranks(1, engine_cases.fail_to_load, tokens, {"tp": 3}) == [
        "LayoutError: layout.tp=3 does not divide num_query_groups=2 (these do: 1, 2)"
    ]
    message = run_ranks(1, engine_cases.fail_to_load, tokens, {"pp": 2})[0]
    assert message.startswith("LayoutError: layout.tp=1 x layout.pp=2 x layout.cp=1 needs a multiple of 2 workers")
