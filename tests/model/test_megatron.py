import pytest
import torch

from model import megatron_cases as cases
from model.ranks import run_ranks
from tatara.errors import LayoutError
from tatara.model.megatron import transformer_config


@pytest.fixture(scope="module")
def one_rank():
    (losses,) = run_ranks(1, cases.losses, cases.layout())
    return losses


def test_a_packed_document_loses_what_it_loses_alone(one_rank):
    alone = run_ranks(1, cases.losses_one_document_at_a_time)[0]
    assert (one_rank - alone).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("world", "sizes"),
    [(2, {"tp": 2}), (2, {"tp": 2, "sequence_parallel": True}), (2, {"cp": 2}), (4, {"tp": 2, "cp": 2})],
    ids=str,
)
def test_a_layout_changes_no_loss(world, sizes, one_rank):
    for losses in run_ranks(world, cases.losses, cases.layout(**sizes)):
        assert (losses - one_rank).abs().max() < 1e-5


def test_rows_that_pad_the_vocabulary_have_no_share_in_the_softmax():
    probability, beyond, gradient = run_ranks(1, cases.padding)[0]
    assert probability == pytest.approx(1.0, abs=1e-5)
    assert beyond == 0.0
    assert gradient == 0.0


def test_recomputed_activations_see_the_same_documents():
    recompute = {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1}
    losses, plain = run_ranks(1, cases.gradients)[0]
    again, recomputed = run_ranks(1, cases.gradients, **recompute)[0]
    assert torch.equal(losses, again)
    assert plain.keys() == recomputed.keys()
    assert all((plain[name] - recomputed[name]).abs().max() < 1e-4 for name in plain)
    assert all(gradient.abs().max() > 0 for gradient in plain.values())


def test_the_seed_decides_the_weights():
    first, second = (run_ranks(1, cases.weights, seed)[0] for seed in (0, 1))
    assert all(
        torch.equal(first[name], second[name]) == (first[name].dim() == 1 and bool((first[name] == 1).all()))
        for name in first
    )


def test_initial_weights_have_the_stated_spread():
    weights = run_ranks(1, cases.weights, 0)[0]
    spec = cases.small_spec()
    plain = weights["decoder.layers.1.self_attention.linear_qkv.weight"].std()
    residual = weights["decoder.layers.1.mlp.linear_fc2.weight"].std()
    assert plain == pytest.approx(spec.init_std, rel=0.05)
    assert residual == pytest.approx(spec.init_std / (2 * spec.num_layers) ** 0.5, rel=0.05)


def test_tensor_parallelism_must_divide_the_padded_vocabulary():
    with pytest.raises(LayoutError, match="tp 3 must divide the padded vocabulary of 512"):
        transformer_config(cases.small_spec(), cases.layout(tp=3))
