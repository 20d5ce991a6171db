"""The engine on real gloo ranks: every layout gives the losses of one rank, and one rank those of a plain loop."""

import math

import pytest

from model.ranks import run_ranks
from train.tokens_cases import VOCABULARY, write_tokens

STEPS = 20
# Two layers where the layout does not ask for more.
SMALL = {"num_layers": 2}
FOUR = {"num_layers": 4}
# With chunks of one layer the first and the last chunk hold none, as in Llama 3.
SIX = {"num_layers": 6}
# The auxiliary loss is a mean over each rank's tokens, so it depends on the layout; see model/megatron.py.
MOE = {
    "num_layers": 2,
    "moe": {"num_experts": 4, "top_k": 2, "expert_ffn_hidden_size": 48, "auxiliary_coefficient": 0.0},
}
TIED = {"num_layers": 2, "tie_word_embeddings": True}
# Several micro-batches on every data-parallel rank.
SINGLE = {"micro_batch": 1}
UNEVEN = {"pp": 2, "first_stage_layers": 1, "last_stage_layers": 3}
ENDS = {"pp": 2, "first_stage_layers": 3, "last_stage_layers": 3}
TP = {"tp": 2, "sequence_parallel": True}
# Name of the reference: its steps and its model.
ALONE = {
    "two layers": (STEPS, SMALL),
    "four layers": (STEPS, FOUR),
    "six layers": (5, SIX),
    "experts": (STEPS, MOE),
    "tied": (STEPS, TIED),
}
# Ranks: name to (reference, layout, keywords of `Run`).
LAYOUTS = {
    2: {
        "dp2": ("two layers", {}, SINGLE),
        "tp2": ("two layers", {"tp": 2}, {}),
        "tp2 with sequence parallelism": ("two layers", TP, {}),
        "pp2": ("two layers", {"pp": 2}, {}),
        "pp2 interleaved": ("four layers", {"pp": 2, "virtual_stages": 2}, {}),
        "pp2 uneven": ("four layers", UNEVEN, {}),
        "cp2": ("two layers", {"cp": 2}, {}),
        "cp2 by heads": ("two layers", {"cp": 2}, {"exchange": "a2a"}),
        "ends of one layer fewer in 2 stages": ("six layers", ENDS | {"virtual_stages": 2}, {}),
        "ends of one layer fewer in 4 stages": ("six layers", ENDS | {"virtual_stages": 4}, {}),
        "tied pp2": ("tied", {"pp": 2}, {}),
        "experts ep2": ("experts", {"ep": 2}, SINGLE),
        "experts dp2": ("experts", {}, {}),
        "experts pp2": ("experts", {"pp": 2}, {}),
        "experts cp2 ep2": ("experts", {"cp": 2, "ep": 2}, {}),
        "experts tp2 ep2": ("experts", TP | {"ep": 2}, {}),
    },
    4: {
        "tp2 pp2": ("two layers", {"tp": 2, "pp": 2}, {}),
        "tp2 cp2": ("two layers", TP | {"cp": 2}, {}),
        "pp2 dp2": ("two layers", {"pp": 2}, SINGLE),
        "experts pp2 ep2": ("experts", {"pp": 2, "ep": 2}, SINGLE),
    },
    8: {"tp2 pp2 cp2": ("two layers", {"tp": 2, "pp": 2, "cp": 2}, {})},
}


def compute(**settings):
    from tatara.model.compute import ComputeSettings

    return ComputeSettings(**settings)


def train_in(world, tokens, runs):
    """Results of all ranks, each by name."""
    from train import engine_cases

    return run_ranks(world, engine_cases.train_in, tokens, runs)


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    return str(write_tokens(tmp_path_factory.mktemp("engine") / "tokens"))


@pytest.fixture(scope="module")
def alone(tokens):
    """What one rank computes: the references, and what must equal them or differ from them in a known way."""
    more = {
        "selective": ({}, STEPS, SMALL | {"compute": compute(recompute="selective")}),
        "full": ({}, STEPS, SMALL | {"compute": compute(recompute="full")}),
        "learns": ({}, 60, SMALL | {"init_std": 0.02}),
    }
    return train_in(1, tokens, {name: ({}, steps, model) for name, (steps, model) in ALONE.items()} | more)[0]


@pytest.fixture(scope="module")
def together(tokens):
    """Results of the layouts of each number of ranks, once they are asked for."""
    found = {}

    def of(world):
        if world not in found:
            runs = {}
            for name, (reference, layout, keywords) in LAYOUTS[world].items():
                steps, model = ALONE[reference]
                chosen = dict(keywords)
                if exchange := chosen.pop("exchange", None):
                    chosen["compute"] = compute(context_exchange=exchange)
                runs[name] = (layout, steps, model | chosen)
            if world == 2:
                runs["bfloat16"] = ({}, STEPS, SMALL | {"dtype": "bfloat16"})
            found[world] = train_in(world, tokens, runs)
        return found[world]

    return of


def assert_equal(ranks, alone):
    steps, (validation, validation_tokens) = alone
    for got_steps, (got_validation, got_tokens) in ranks:
        for (loss, count, norm), (got_loss, got_count, got_norm) in zip(steps, got_steps, strict=True):
            assert got_count == count
            assert got_loss == pytest.approx(loss, rel=1e-5)
            assert got_norm == pytest.approx(norm, rel=1e-5)
        assert got_tokens == validation_tokens
        assert got_validation == pytest.approx(validation, rel=1e-5)


@pytest.mark.parametrize(("world", "name"), [(world, name) for world, named in LAYOUTS.items() for name in named])
def test_a_layout_gives_the_losses_of_one_rank(together, alone, world, name):
    assert_equal([rank[name] for rank in together(world)], alone[LAYOUTS[world][name][0]])


@pytest.mark.parametrize("changes", [SMALL, MOE], ids=["dense", "experts"])
def test_one_rank_gives_the_losses_of_a_hugging_face_model_in_a_plain_loop(tokens, changes):
    from train import engine_cases

    (ours, reference) = run_ranks(1, engine_cases.beside_hugging_face, tokens, STEPS, changes)[0]
    for (loss, _, norm), (expected_loss, expected_norm) in zip(ours, reference, strict=True):
        assert loss == pytest.approx(expected_loss, rel=1e-4)
        assert norm == pytest.approx(expected_norm, rel=1e-4)


def test_bfloat16_keeps_float32_in_the_optimizer(together, alone):
    losses, exact = ([step[0] for step in run[0]] for run in (together(2)[0]["bfloat16"], alone["two layers"]))
    assert losses == pytest.approx(exact, rel=0.02)
    assert losses != pytest.approx(exact, rel=1e-5)


@pytest.mark.parametrize("recompute", ["selective", "full"])
def test_recomputation_changes_no_loss(alone, recompute):
    assert_equal([alone[recompute]], alone["two layers"])


def test_frozen_parameters_stay_and_rates_differ(tokens):
    from train import engine_cases

    moved = run_ranks(1, engine_cases.moved, tokens)[0]
    assert moved["frozen"] == 0.0
    assert moved["slow"] == pytest.approx(moved["fast"] / 10, rel=0.3)


def test_it_starts_at_chance_and_learns(alone):
    steps, _ = alone["learns"]
    assert steps[0][0] == pytest.approx(math.log(VOCABULARY), abs=0.1)
    assert steps[-1][0] < math.log(VOCABULARY) - 2


def test_a_step_that_is_not_approved_moves_nothing(tokens):
    from train import engine_cases

    changes = MOE | {"moe": MOE["moe"] | {"score": "sigmoid", "balancing": "bias"}}
    before, after, asked, applied = run_ranks(1, engine_cases.refuse_a_step, tokens, changes)[0]
    assert before == after
    assert not applied
    assert asked[0] == pytest.approx(math.log(VOCABULARY), rel=0.2)
    assert asked[1] > 0


def test_a_layout_that_does_not_fit_is_refused(tokens):
    from train import engine_cases

    three, two = run_ranks(1, engine_cases.fail_to_load, tokens, [{"tp": 3}, {"pp": 2}])[0]
    assert three == "LayoutError: layout.tp=3 does not divide num_query_groups=2 (these do: 1, 2)"
    assert two.startswith("LayoutError: layout.tp=1 x layout.pp=2 x layout.cp=1 needs a multiple of 2 workers")
