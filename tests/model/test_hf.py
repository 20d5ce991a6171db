import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from model import hf_cases as cases
from model.megatron_cases import layout, small_spec
from model.ranks import run_ranks
from tatara.model.hf import hf_config, hf_shapes

LAYOUTS = [
    (2, {"tp": 2}),
    (2, {"pp": 2}),
    (2, {"pp": 2, "virtual_stages": 2}),
    (4, {"tp": 2, "pp": 2}),
]


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return list(one) == list(other) and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def one_rank():
    return run_ranks(1, cases.stream, layout())[0]


@pytest.mark.parametrize(
    "changes",
    [{}, {"tie_word_embeddings": True}, {"num_query_groups": 4}, {"num_query_groups": 1, "head_dim": 32}],
    ids=str,
)
@pytest.mark.parametrize("from_transformers", [False, True])
def test_both_implementations_compute_the_same_logits(changes, from_transformers):
    mine, theirs = run_ranks(1, cases.logits, from_transformers, **changes)[0]
    assert theirs.std() > 0.02
    assert (mine - theirs).abs().max() < 1e-4


@pytest.mark.parametrize(("world", "sizes"), LAYOUTS, ids=str)
def test_every_rank_of_every_layout_streams_the_same_bits(world, sizes, one_rank):
    for streamed in run_ranks(world, cases.stream, layout(**sizes)):
        assert equal(streamed, one_rank)


@pytest.mark.parametrize(("world", "sizes"), LAYOUTS, ids=str)
def test_what_was_loaded_comes_back(world, sizes, one_rank):
    for streamed in run_ranks(world, cases.reload, layout(**sizes), one_rank):
        assert equal(streamed, one_rank)


def test_a_tied_table_reaches_the_last_pipeline_rank():
    tied = run_ranks(1, cases.stream, layout(), tie_word_embeddings=True)[0]
    assert "lm_head.weight" not in tied
    for streamed in run_ranks(2, cases.reload, layout(pp=2), tied, tie_word_embeddings=True):
        assert equal(streamed, tied)


def test_pipeline_ranks_name_layers_by_their_place_in_the_whole_model():
    first, second = run_ranks(2, cases.names, layout(pp=2))
    assert not set(first) & set(second)
    assert set(first) | set(second) == set(run_ranks(1, cases.names, layout())[0])


def test_weights_that_do_not_fit_are_refused_by_name():
    said = run_ranks(1, cases.refusals)[0]
    name = "model.layers.2.self_attn.k_proj.weight"
    assert said == {
        "missing": f"1 tensors are missing, the first is {name}",
        "unexpected": "unexpected tensor model.layers.4.mlp.up_proj.weight: the architecture has none of that name",
        "twice": f"tensor {name} was given twice",
        "shape": f"tensor {name} has shape [31, 64], expected [32, 64]",
        "other architecture": "the Megatron model does not fit its specification: "
        "it has decoder.layers.3.input_layernorm.weight, which the architecture does not",
    }


@pytest.mark.parametrize("tie_word_embeddings", [False, True])
def test_shapes_are_those_of_transformers(tie_word_embeddings):
    spec = small_spec(tie_word_embeddings=tie_word_embeddings, head_dim=8)
    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(**hf_config(spec)))
    assert hf_shapes(spec) == {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
