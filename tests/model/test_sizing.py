import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tatara.errors import ConfigError
from tatara.model.presets import preset
from tatara.model.sizing import TOLERANCE, aspect_ratio, feed_forward_ratio, model_of_size, parse_count
from tatara.model.spec import MixtureOfExperts


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("50M", 50_000_000),
        ("1.5B", 1_500_000_000),
        ("125k", 125_000),
        ("2T", 2 * 10**12),
        ("1_000_000", 1_000_000),
        ("3e9", 3 * 10**9),
        (" 16 m ", 16_000_000),
        (4096, 4096),
    ],
)
def test_counts_are_written_as_people_write_them(text, count):
    assert parse_count(text) == count


@pytest.mark.parametrize("text", ["", "M", "50X", "-3M", "nan", "inf", "0", "1,5,x"])
def test_what_is_no_count_is_refused_in_one_line(text):
    with pytest.raises(ConfigError, match=r"is not a count: write it like 50M"):
        parse_count(text)


@settings(max_examples=40, deadline=None)
@given(st.floats(6, 12), st.sampled_from([1000, 4096, 32000, 50257, 128256]))
def test_a_size_gives_a_shape_that_is_close_to_it_and_sensible(exponent, vocab_size):
    # Room for a table that is not most of the model.
    parameters = max(round(10**exponent), 300 * vocab_size)
    spec = model_of_size(parameters, vocab_size=vocab_size)
    assert spec.vocab_size == vocab_size
    assert abs(spec.parameter_count() / parameters - 1) <= TOLERANCE
    assert spec.head_size == (128 if spec.hidden_size >= 2048 else 64)
    assert spec.head_size * spec.num_attention_heads == spec.hidden_size
    assert spec.num_query_groups <= 8
    assert spec.hidden_size % (256 if spec.hidden_size >= 2048 else 128 if spec.hidden_size > 64 else 64) == 0
    assert spec.ffn_hidden_size % (64 if spec.hidden_size < 1024 else 128) == 0
    assert spec.tie_word_embeddings == (parameters < 6e9)
    assert 0.35 < spec.hidden_size / spec.num_layers / aspect_ratio(parameters) < 3
    assert 0.6 < spec.ffn_hidden_size / spec.hidden_size / feed_forward_ratio(parameters) < 1.4


@given(st.floats(5, 12), st.floats(0, 3))
def test_larger_models_are_relatively_wider(exponent, more):
    assert aspect_ratio(10 ** (exponent + more)) >= aspect_ratio(10**exponent)


def test_the_usual_sizes_look_like_what_was_published():
    llama = preset("llama3-8b")
    ours = model_of_size(llama.parameter_count(), vocab_size=llama.vocab_size)
    assert (ours.num_layers, ours.hidden_size, ours.num_query_groups) == (32, 4096, 8)
    assert ours.ffn_hidden_size == pytest.approx(llama.ffn_hidden_size, rel=0.02)
    for name in ("qwen3-1.7b", "llama3-70b", "llama3-405b"):
        there = preset(name)
        here = model_of_size(there.parameter_count(), vocab_size=there.vocab_size)
        assert here.hidden_size == pytest.approx(there.hidden_size, rel=0.25)
        assert here.num_layers == pytest.approx(there.num_layers, rel=0.35)


def test_what_is_fixed_stays():
    moe = MixtureOfExperts(num_experts=8, top_k=2, expert_ffn_hidden_size=512)
    fixed = {"vocab_size": 8000, "moe": moe, "qk_norm": "head", "rope_theta": 1e6, "tie_word_embeddings": False}
    spec = model_of_size(100_000_000, **fixed)
    assert all(getattr(spec, name) == value for name, value in fixed.items())
    assert abs(spec.parameter_count() / 1e8 - 1) <= TOLERANCE
    deep = model_of_size(50_000_000, num_layers=24, vocab_size=8000)
    assert deep.num_layers == 24
    wide = model_of_size(50_000_000, hidden_size=768, ffn_hidden_size=2048, vocab_size=8000)
    assert (wide.hidden_size, wide.ffn_hidden_size) == (768, 2048)


def test_a_size_that_no_shape_has_names_the_closest():
    with pytest.raises(ConfigError, match=r"no shape of 1,000,000 parameters, the closest has 8,\d+,\d+"):
        model_of_size(1_000_000, vocab_size=128256)
    with pytest.raises(ConfigError, match=r"^hidden_sze: .*not permitted"):
        model_of_size(50_000_000, hidden_sze=64)
