import pytest
import torch

from model.megatron_twins import twin
from tatara.errors import ConfigError
from tatara.model.presets import PRESETS, preset

# Parameters of the released weights, as the index of their safetensors files counts them; of Instella, the figure of
# its config. Tanuki's cards say about 8B, 47B and 13B active.
PUBLISHED = {
    "llama3-8b": 8_030_261_248,
    "llama3-70b": 70_553_706_496,
    "llama3-405b": 405_853_388_800,
    "llama3.1-8b": 8_030_261_248,
    "llama3.1-70b": 70_553_706_496,
    "llama3.1-405b": 405_853_388_800,
    "mistral-7b": 7_248_023_552,
    "mixtral-8x7b": 46_702_792_704,
    "qwen3-0.6b": 596_049_920,
    "qwen3-1.7b": 1_720_574_976,
    "qwen3-4b": 4_022_468_096,
    "qwen3-8b": 8_190_735_360,
    "qwen3-14b": 14_768_307_200,
    "qwen3-32b": 32_762_123_264,
    "qwen3-30b-a3b": 30_532_122_624,
    "qwen3-235b-a22b": 235_093_634_560,
}
ROUNDED = {"instella-3b": 3.11e9, "tanuki-8b": 7.51e9, "tanuki-8x8b": 47e9}
ACTIVE = {"tanuki-8x8b": 13e9, "mixtral-8x7b": 12.9e9, "qwen3-30b-a3b": 3.3e9, "qwen3-235b-a22b": 22e9}


@pytest.fixture(scope="module")
def twins():
    with torch.device("meta"):
        return {name: twin(spec) for name, spec in PRESETS.items() if "3.1" not in name}


def test_every_published_model_has_its_published_size():
    assert {name: preset(name).parameter_count() for name in PUBLISHED} == PUBLISHED
    assert {name for name in PRESETS if not name.startswith("toy-")} == PUBLISHED.keys() | ROUNDED.keys()
    for name, rounded in ROUNDED.items():
        assert preset(name).parameter_count() == pytest.approx(rounded, rel=2e-3)
    for name, active in ACTIVE.items():
        assert preset(name).parameter_count(active=True) == pytest.approx(active, rel=0.02)


def test_the_model_that_transformers_builds_has_as_many_parameters(twins):
    for name, model in twins.items():
        spec = preset(name)
        # What stands in for a dense feed-forward under one norm of all heads has a router of one expert.
        routers = spec.num_layers * spec.hidden_size if spec.qk_norm == "full" and spec.moe is None else 0
        assert model.num_parameters() - routers == spec.parameter_count(), name


def test_operations_are_those_of_the_matrices_that_a_token_meets(twins):
    length = 1000
    for name, model in twins.items():
        spec = preset(name)
        weights = sum(weight * share for weight, share in _matrices(model, spec))
        # Scores and values: two products, two operations each, three passes, half of the square.
        attention = 6 * spec.num_layers * spec.num_attention_heads * spec.head_size * length
        assert spec.flops_per_token(length) == pytest.approx(6 * weights + attention, rel=1e-9), name


def _matrices(model, spec):
    """Size of every matrix that multiplies activations, and the share of tokens that meets it."""
    yield spec.vocab_size * spec.hidden_size, 1.0
    for name, weight in model.named_parameters():
        if ".layers." in name and weight.dim() == 3:
            yield weight.numel(), 1.0 if spec.moe is None else spec.moe.top_k / spec.moe.num_experts
        elif ".layers." in name and weight.dim() == 2 and not (spec.moe is None and "mlp.gate.weight" in name):
            yield weight.numel(), 1.0


def test_long_context_releases_differ_in_their_rotary_positions_alone():
    base, long = preset("llama3-8b"), preset("llama3.1-8b")
    assert long.max_position_embeddings == 131072
    assert long.rope_scaling is not None
    assert long.rope_scaling.factor == 8.0
    assert long.model_copy(update={"max_position_embeddings": 8192, "rope_scaling": None}) == base


def test_toys_are_small_enough_for_a_laptop():
    toys = [spec for name, spec in PRESETS.items() if name.startswith("toy-")]
    assert len(toys) == 6
    assert all(spec.parameter_count() < 1e6 for spec in toys)


def test_an_unknown_model_names_its_neighbours():
    with pytest.raises(ConfigError, match=r"^unknown model qwen3-8B-base: did you mean .*qwen3-8b"):
        preset("qwen3-8B-base")
