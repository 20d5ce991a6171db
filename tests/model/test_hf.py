import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from model import hf_cases as cases
from model.megatron_cases import layout, small_spec
from model.ranks import run_ranks
from tatara.model.hf import hf_config, hf_shapes
from tatara.model.safetensors_files import TensorDirectory

WORLDS = {
    1: [{}],
    2: [
        {"tp": 2, "sequence_parallel": True},
        {"pp": 2},
        {"pp": 2, "virtual_stages": 2},
        {"ep": 2},
        {"tp": 2, "ep": 2, "sequence_parallel": True},
    ],
    4: [
        {"tp": 2, "pp": 2, "sequence_parallel": True},
        {"pp": 2, "ep": 2},
        {"tp": 2, "ep": 4, "sequence_parallel": True},
    ],
}
# One rank has all; these differ in what they ask of a layout.
EVERYWHERE = ["llama tied", "qwen3", "instella grouped", "mixtral", "qwen3 moe", "glm4 moe"]
NAMES = {1: list(cases.ARCHITECTURES), 2: EVERYWHERE, 4: ["qwen3", "instella grouped", "glm4 moe"]}


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return list(one) == list(other) and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def references(tmp_path_factory):
    directory = tmp_path_factory.mktemp("references")
    cases.save_references(directory)
    return directory


@pytest.mark.parametrize("world", WORLDS, ids=str)
def test_files_of_transformers_come_back_bit_for_bit_from_every_layout(world, references, tmp_path):
    names = NAMES[world]
    mixtures = sum("moe" in cases.ARCHITECTURES[name] for name in names)
    expected = sum(mixtures if "ep" in sizes else len(names) for sizes in WORLDS[world])
    for said in run_ranks(world, cases.round_trips, WORLDS[world], names, references, tmp_path):
        assert said == [f"{expected} round trips"]


def test_both_implementations_compute_the_same_logits(references, tmp_path):
    (found,) = run_ranks(1, cases.logits, references, tmp_path)
    assert found.keys() == cases.ARCHITECTURES.keys()
    for name, (spread, difference, exported) in found.items():
        assert spread > 0.1, name
        assert difference < 1e-4, name
        assert exported == 0, name


@pytest.mark.parametrize("name", cases.ARCHITECTURES)
def test_shapes_are_those_of_the_files_of_transformers(name, references):
    assert hf_shapes(small_spec(**cases.ARCHITECTURES[name])) == TensorDirectory(references / name).shapes()


def test_no_rank_has_more_than_a_few_tensors_beyond_its_part(tmp_path):
    # 64 experts of 24 KB each, in every layer; the largest tensor is the embedding.
    moe = cases.EXPERTS | {"num_experts": 64}
    for writing, reading, largest in run_ranks(2, cases.memory, tmp_path, {"pp": 2}, moe=moe):
        whole = small_spec(moe=moe).parameter_count() * 4
        assert whole > 40 * largest
        assert 0 < writing <= 3 * largest
        assert 0 < reading <= 3 * largest


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


def test_a_router_bias_without_a_place_is_refused():
    said = run_ranks(1, cases.a_bias_without_a_place)[0]
    assert said.startswith("tensor model.layers.1.mlp.gate.e_score_correction_bias must be zero")


@pytest.mark.parametrize("tie_word_embeddings", [False, True])
def test_shapes_are_those_of_transformers(tie_word_embeddings):
    spec = small_spec(tie_word_embeddings=tie_word_embeddings, head_dim=8)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**hf_config(spec)))
    assert hf_shapes(spec) == {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
