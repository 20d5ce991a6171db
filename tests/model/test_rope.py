import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from model.megatron_twins import twin_config
from tatara.model.rope import attention_factor, inverse_frequencies
from tatara.model.spec import ModelSpec, RopeScaling

SCALINGS = [
    RopeScaling(type="linear", factor=4.0),
    RopeScaling(
        type="llama3", factor=8.0, original_max_position_embeddings=8192, low_freq_factor=1.0, high_freq_factor=4.0
    ),
    RopeScaling(
        type="llama3", factor=32.0, original_max_position_embeddings=8192, low_freq_factor=1.0, high_freq_factor=4.0
    ),
    RopeScaling(type="yarn", factor=4.0, original_max_position_embeddings=32768),
    RopeScaling(type="yarn", factor=16.0, original_max_position_embeddings=4096, beta_fast=20.0, beta_slow=2.0),
    RopeScaling(type="yarn", factor=2.0, original_max_position_embeddings=64, attention_factor=1.3),
]


def spec_with(scaling: RopeScaling | None, head_dim: int = 128, theta: float = 500000.0) -> ModelSpec:
    return ModelSpec(head_dim=head_dim, rope_theta=theta, max_position_embeddings=131072, rope_scaling=scaling)


def test_plain_frequencies_are_a_geometric_series():
    frequencies = inverse_frequencies(spec_with(None, head_dim=8, theta=10000.0))
    assert frequencies.dtype == torch.float32
    assert frequencies.tolist() == pytest.approx([1.0, 0.1, 0.01, 0.001])
    assert attention_factor(spec_with(None)) == 1.0


@pytest.mark.parametrize("scaling", SCALINGS, ids=lambda scaling: f"{scaling.type} x{scaling.factor:g}")
@pytest.mark.parametrize(("head_dim", "theta"), [(128, 500000.0), (64, 10000.0), (32, 1e6)])
def test_stretched_frequencies_are_those_of_transformers(scaling, head_dim, theta):
    spec = spec_with(scaling, head_dim, theta)
    reference, factor = ROPE_INIT_FUNCTIONS[scaling.type](twin_config(spec), device="cpu")
    torch.testing.assert_close(inverse_frequencies(spec), reference, rtol=2e-6, atol=1e-12)
    assert attention_factor(spec) == pytest.approx(factor)
    assert isinstance(twin_config(spec), LlamaConfig)


@given(st.sampled_from(SCALINGS), st.sampled_from([32, 64, 128]), st.floats(1e4, 1e7))
def test_stretching_only_slows_and_never_by_more_than_the_factor(scaling, head_dim, theta):
    plain = inverse_frequencies(spec_with(None, head_dim, theta))
    stretched = inverse_frequencies(spec_with(scaling, head_dim, theta))
    assert (stretched <= plain * (1 + 1e-6)).all()
    assert (stretched >= plain / scaling.factor * (1 - 1e-6)).all()
