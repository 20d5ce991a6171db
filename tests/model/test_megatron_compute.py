import pytest
import torch
from pydantic import ValidationError

from model import megatron_cases as cases
from model import megatron_steps as steps
from model.ranks import run_ranks
from tatara.errors import ConfigError
from tatara.model.compute import ComputeSettings
from tatara.model.megatron import transformer_config
from tatara.model.spec import MixtureOfExperts

EXPERTS = MixtureOfExperts(
    num_experts=4,
    top_k=2,
    expert_ffn_hidden_size=32,
    shared_expert_ffn_hidden_size=32,
    score="sigmoid",
    balancing="bias",
    z_loss_coefficient=0.01,
)
SPECS = {
    "dense": cases.small_spec(num_layers=2, qk_norm="full"),
    "experts": cases.small_spec(num_layers=2, qk_norm="head", moe=EXPERTS),
}


@pytest.fixture(scope="module")
def plain():
    return {name: run_ranks(1, steps.step_gradients, spec, cases.layout())[0] for name, spec in SPECS.items()}


def assert_same_step(measured, expected, tolerance):
    (loss, gradients), (expected_loss, expected_gradients) = measured, expected
    assert loss == pytest.approx(expected_loss, rel=tolerance)
    assert gradients.keys() == expected_gradients.keys()
    for name, gradient in gradients.items():
        assert (gradient - expected_gradients[name]).norm() <= tolerance * expected_gradients[name].norm(), name


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("dense", {"recompute": "selective"}),
        ("dense", {"recompute": "full", "recompute_layers": 1}),
        ("experts", {"recompute": "selective"}),
        ("experts", {"recompute": "full"}),
    ],
)
def test_recomputed_activations_are_the_same(kind, settings, plain):
    measured = run_ranks(1, steps.step_gradients, SPECS[kind], cases.layout(), ComputeSettings(**settings))[0]
    assert_same_step(measured, plain[kind], 1e-6)


def test_recomputation_counts_each_choice_of_an_expert_once():
    ((bias, counts),) = run_ranks(
        1, steps.bias_after_a_step, SPECS["experts"], cases.layout(), ComputeSettings(recompute="full")
    )
    # Every layer chooses twice, without and with gradients, but the balance is judged from one of them.
    assert counts.sum() == 2 * 4 * cases.SEQUENCE * 2
    assert torch.equal(bias, EXPERTS.bias_update_rate * torch.sign(counts.float().mean() - counts))


def test_compiled_layers_compute_the_same(plain):
    # Attention is compiled as in a dense layer.
    compiled, graphs = run_ranks(1, steps.compiled_gradients, SPECS["experts"])[0]
    assert graphs > 0
    assert_same_step(compiled, plain["experts"], 1e-5)


@pytest.mark.parametrize("kind", SPECS)
def test_fp8_without_a_gpu_says_what_is_missing(kind, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"^fp8: delayed needs a GPU with FP8, but this machine has none: set fp8"):
        transformer_config(SPECS[kind], cases.layout(), ComputeSettings(fp8="delayed"))


def test_an_unknown_kernel_is_refused():
    with pytest.raises(ValidationError, match="'auto', 'sdpa', 'flex' or 'flash'"):
        ComputeSettings(attention="fastest")


def test_attention_is_told_its_kernel_and_exchange():
    told = run_ranks(1, steps.attention_options, ComputeSettings(attention="sdpa", context_exchange="a2a"))[0]
    assert told == {"kernel": "sdpa", "exchange": "a2a"}
