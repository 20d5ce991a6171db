import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tatara.model.compute import ComputeSettings
from tatara.model.spec import MixtureOfExperts, ModelSpec, RopeScaling

# The shapes that the papers print, and the parameter counts that follow from them.
LLAMA_3_8B = ModelSpec(
    vocab_size=128256,
    num_layers=32,
    hidden_size=4096,
    num_attention_heads=32,
    num_query_groups=8,
    ffn_hidden_size=14336,
    max_position_embeddings=8192,
    rope_theta=500000.0,
)


def test_the_parameter_count_of_llama_3_8b_is_the_published_one():
    assert LLAMA_3_8B.parameter_count() == 8_030_261_248


def test_tying_drops_one_table():
    tied = LLAMA_3_8B.model_copy(update={"tie_word_embeddings": True})
    assert LLAMA_3_8B.parameter_count() - tied.parameter_count() == 128256 * 4096
    # The output projection is computed all the same.
    assert tied.flops_per_token(8192) == LLAMA_3_8B.flops_per_token(8192)


def test_flops_are_six_per_weight_plus_causal_attention():
    norms = (2 * 32 + 1) * 4096
    weights = LLAMA_3_8B.parameter_count() - 128256 * 4096 - norms
    attention = 3 * (2 * 2 * 32 * 4096 * 8192) / 2
    assert LLAMA_3_8B.flops_per_token(8192) == pytest.approx(6 * weights + attention, rel=1e-12)


def test_the_default_is_a_toy_of_two_million_parameters():
    assert 1.5e6 < ModelSpec().parameter_count() < 2.5e6
    assert ModelSpec().vocab_size == 4096


@given(st.integers(1, 300_000))
def test_padding_is_the_next_multiple_of_128(vocab_size: int):
    padded = ModelSpec(vocab_size=vocab_size).padded_vocab_size
    assert padded % 128 == 0
    assert 0 <= padded - vocab_size < 128


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_query_groups": 3}, "num_query_groups 3 must divide num_attention_heads 4"),
        ({"hidden_size": 130}, "num_attention_heads 4 must divide hidden_size 130"),
        ({"head_dim": 33}, "an even head width, not 33"),
        ({"num_layers": 0}, "greater than or equal to 1"),
        ({"dtype": "float16"}, "'float32' or 'bfloat16'"),
    ],
)
def test_an_impossible_architecture_names_the_field(changes, message):
    with pytest.raises(ValidationError, match=message):
        ModelSpec(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_experts": 4, "top_k": 5}, "top_k 5 is more than num_experts 4"),
        ({"top_k": 1}, "top_k 1 needs normalize_top_k: false"),
        ({"score": "sigmoid", "normalize_top_k": False}, "score: sigmoid needs normalize_top_k: true"),
        ({"balancing": "bias"}, "balancing by bias needs score: sigmoid"),
    ],
)
def test_an_impossible_mixture_of_experts_names_the_field(changes, message):
    with pytest.raises(ValidationError, match=message):
        MixtureOfExperts(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"type": "yarn"}, "yarn needs original_max_position_embeddings"),
        ({"type": "linear", "beta_fast": 32.0}, "beta_fast has no meaning in rope scaling of type linear"),
        (
            {
                "type": "llama3",
                "original_max_position_embeddings": 8192,
                "low_freq_factor": 4.0,
                "high_freq_factor": 4.0,
            },
            "low_freq_factor must be smaller",
        ),
        ({"type": "longrope"}, "'llama3', 'yarn' or 'linear'"),
    ],
)
def test_an_impossible_rope_scaling_names_the_field(changes, message):
    with pytest.raises(ValidationError, match=message):
        RopeScaling(**{"factor": 8.0} | changes)


def test_layers_to_recompute_need_full_recomputation():
    with pytest.raises(ValidationError, match="recompute_layers needs recompute: full"):
        ComputeSettings(recompute="selective", recompute_layers=2)
