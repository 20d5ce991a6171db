"""Upcycled weights in Megatron's models, beside the dense one and beside Megatron's own upcycling."""

import pytest
import torch

from model import upcycle_cases as cases
from model.megatron_cases import layout
from model.ranks import run_ranks

GRANULAR = {"shards": 2, "num_experts": 8, "top_k": 4}


@pytest.mark.parametrize(
    ("world", "sizes", "sparse", "settings"),
    [
        (1, {}, {}, {"method": "copy"}),
        (1, {}, GRANULAR, {"method": "granular", "granularity": 2}),
        (1, {}, {"shared": 48, "score": "sigmoid", "scaling_factor": 2.5}, {"method": "copy", "router_std": 0.5}),
        (2, {"ep": 2}, GRANULAR, {"method": "granular", "granularity": 2}),
        (2, {"tp": 2, "ep": 2, "sequence_parallel": True}, {}, {"method": "copy"}),
    ],
    ids=str,
)
def test_the_first_step_computes_what_the_dense_model_does(world, sizes, sparse, settings):
    for before, after in run_ranks(world, cases.first_step, layout(**sizes), sparse, settings):
        assert before.std() > 0.1
        assert (after - before).abs().max() < 1e-5 * before.abs().max()


def test_a_zero_router_needs_no_normalised_weights():
    settings = {"method": "copy", "router_std": 0.0}
    ((before, after),) = run_ranks(1, cases.first_step, layout(), {"normalize_top_k": False}, settings, qk_norm="head")
    assert (after - before).abs().max() < 1e-5 * before.abs().max()


def test_a_drop_changes_the_first_step():
    ((before, after),) = run_ranks(1, cases.first_step, layout(), {}, {"method": "drop"})
    assert (after - before).abs().max() > 1e-2


def test_copies_are_those_of_megatron_bit_for_bit():
    (found,) = run_ranks(1, cases.beside_megatron, {}, {"method": "copy"})
    assert found["differ"] == []
    assert torch.equal(found["mine"], found["theirs"])


def test_granular_experts_are_exact_where_those_of_megatron_approximate():
    (found,) = run_ranks(1, cases.beside_megatron, GRANULAR, {"method": "granular", "granularity": 2})
    mine, theirs = ((found[name] - found["dense"]).abs().max() for name in ("mine", "theirs"))
    assert mine < 1e-5 * found["dense"].abs().max()
    assert theirs > 100 * mine
    # The same shards in the same places, scaled otherwise.
    assert all(".experts.local_experts." in name for name in found["differ"])


LAYOUTS = [
    (1, {}),
    (2, {"ep": 2}),
    (2, {"pp": 2}),
    (2, {"tp": 2, "ep": 2, "sequence_parallel": True}),
    (4, {"pp": 2, "virtual_stages": 2, "ep": 2}),
]


def plain_similarity(tensors):
    """By comparing every pair."""
    found = {}
    for layer in range(4):
        values = []
        for part in ("w1", "w2", "w3"):
            name = f"model.layers.{layer}.block_sparse_moe.experts.{{}}.{part}.weight"
            experts = [tensors[name.format(expert)].double().flatten() for expert in range(6)]
            pairs = [(a, b) for index, a in enumerate(experts) for b in experts[:index]]
            values += [float(torch.nn.functional.cosine_similarity(a, b, dim=0)) for a, b in pairs]
        found[layer] = sum(values) / len(values)
    return found


@pytest.mark.parametrize(("world", "sizes"), LAYOUTS, ids=str)
def test_similarity_is_the_mean_cosine_of_all_pairs_in_every_layout(world, sizes):
    for found, tensors in run_ranks(world, cases.similarity, layout(**sizes), {"method": "drop", "ratio": 0.4}):
        expected = plain_similarity(tensors)
        assert list(found) == [0, 1, 2, 3]
        assert all(abs(found[layer] - expected[layer]) < 1e-6 for layer in expected)
        assert all(0.3 < value < 0.45 for value in found.values())


def test_copies_are_wholly_alike():
    for found, _ in run_ranks(2, cases.similarity, layout(ep=2), {"method": "copy"}):
        assert all(abs(value - 1) < 1e-6 for value in found.values())


def test_experts_that_have_nothing_to_do_with_each_other_are_not_alike():
    for found, tensors in run_ranks(2, cases.similarity, layout(ep=2), None):
        assert all(abs(found[layer] - value) < 1e-6 for layer, value in plain_similarity(tensors).items())
        assert all(abs(value) < 0.05 for value in found.values())


def test_a_dense_model_has_no_similarity():
    assert run_ranks(1, cases.dense_similarity) == [{}]
