"""Statistics of a live engine: the same in every layout, and what the full tensors say."""

import math

import pytest
import torch

from model.ranks import run_ranks
from tatara.train.watch.statistics import KINDS, RouterLoad, parameter_kind
from train.tokens_cases import write_tokens
from train.watch import watch_cases

STEPS = 2
EXPERTS = {"num_experts": 4, "top_k": 2, "expert_ffn_hidden_size": 48, "auxiliary_coefficient": 0.0}


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    return str(write_tokens(tmp_path_factory.mktemp("statistics") / "tokens"))


@pytest.fixture(scope="module")
def alone(tokens):
    """Dense and mixture of experts on one rank."""
    dense = run_ranks(1, watch_cases.statistics, tokens, {}, STEPS, {"tie_word_embeddings": True})[0]
    return {False: dense, True: run_ranks(1, watch_cases.statistics, tokens, {}, STEPS, {"moe": EXPERTS})[0]}


def norms(tensors):
    squares = dict.fromkeys(KINDS, 0.0)
    for name, tensor in tensors.items():
        squares[parameter_kind(name)] += float((tensor**2).sum())
    return {kind: math.sqrt(square) for kind, square in squares.items() if square}


@pytest.mark.parametrize("mixture", [False, True])
def test_norms_and_updates_are_those_of_the_full_tensors(alone, mixture):
    found, before, after = alone[mixture]
    assert found[-1].parameter_norms == pytest.approx(norms(after), rel=1e-5)
    changes = norms({name: after[name] - before[name] for name in after})
    was = norms(before)
    assert found[-1].update_ratios == pytest.approx({kind: changes[kind] / was[kind] for kind in was}, rel=1e-3)
    assert set(was) == set(KINDS) - ({"output", "router"} if not mixture else set())


@pytest.mark.parametrize(
    ("mixture", "layout"),
    [
        (False, {"tp": 2}),
        (False, {"pp": 2}),
        (True, {"ep": 2}),
        (True, {"tp": 2, "sequence_parallel": True}),
        (True, {"pp": 2, "virtual_stages": 2}),
    ],
)
def test_every_layout_gives_the_statistics_of_one_rank(tokens, alone, mixture, layout):
    changes = {"moe": EXPERTS} if mixture else {"tie_word_embeddings": True}
    ranks = run_ranks(2, watch_cases.statistics, tokens, layout, STEPS, changes)
    for found, _, _ in ranks:
        for got, expected in zip(found, alone[mixture][0], strict=True):
            assert got.parameter_norms == pytest.approx(expected.parameter_norms, rel=1e-5)
            assert got.update_ratios == pytest.approx(expected.update_ratios, rel=2e-2)
            assert [each.layer for each in got.router] == [each.layer for each in expected.router]
            for one, other in zip(got.router, expected.router, strict=True):
                # Rounding may send a token elsewhere.
                assert one.load == pytest.approx(other.load, abs=0.02)


def test_routers_see_every_token_once(alone):
    found, _, _ = alone[True]
    assert [each.layer for each in found[0].router] == [0, 1, 2, 3]
    for each in found[0].router:
        assert sum(each.load) == pytest.approx(EXPERTS["num_experts"])
        # Each token visits an expert at most once, so none can have more than all tokens.
        assert max(each.load) <= EXPERTS["num_experts"] / EXPERTS["top_k"]
    event = found[0].event()
    assert set(event) == {"parameter_norms", "update_ratios", "memory_bytes", "router"}
    assert event["router"]["violation"] == pytest.approx(max(max(each.load) for each in found[0].router) - 1)
    assert event["memory_bytes"] > 50e6
    assert "router" not in alone[False][0][0].event()


def test_balance_and_its_opposite():
    even, one = RouterLoad(0, (1.0,) * 4), RouterLoad(0, (4.0, 0.0, 0.0, 0.0))
    assert (even.violation, even.entropy, even.dead) == (0, pytest.approx(1), 0)
    assert (one.violation, one.entropy, one.dead) == (3, pytest.approx(0), 3)
    shares = torch.tensor([0.5, 0.25, 0.25])
    entropy = torch.distributions.Categorical(probs=shares).entropy() / math.log(3)
    assert RouterLoad(0, (1.5, 0.75, 0.75)).entropy == pytest.approx(float(entropy), rel=1e-6)


def test_kinds_go_by_name():
    names = {
        "embedding.word_embeddings.weight": "embedding",
        "output_layer.weight": "output",
        "decoder.final_layernorm.weight": "norm",
        "decoder.layers.3.self_attention.q_layernorm.weight": "norm",
        "decoder.layers.3.pre_mlp_layernorm.weight": "norm",
        "decoder.layers.3.self_attention.linear_qkv.weight": "attention",
        "decoder.layers.3.mlp.router.weight": "router",
        "decoder.layers.3.mlp.experts.local_experts.2.linear_fc1.weight": "feed_forward",
        "decoder.layers.3.mlp.linear_fc2.weight": "feed_forward",
    }
    assert {name: parameter_kind(name) for name in names} == names
