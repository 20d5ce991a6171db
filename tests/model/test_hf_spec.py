import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from model.hf_cases import ARCHITECTURES, EXPERTS, LLAMA3, SIGMOID, YARN
from model.megatron_cases import small_spec
from tatara.errors import ConfigError
from tatara.model.hf_families import family_of, hf_config
from tatara.model.hf_names import hf_shapes
from tatara.model.hf_spec import spec_from_hf
from tatara.model.rope import attention_factor, inverse_frequencies

LLAMA_31_8B = {
    "_name_or_path": "x", "architectures": ["LlamaForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
    "bos_token_id": 128000, "eos_token_id": 128001, "hidden_act": "silu", "hidden_size": 4096,
    "initializer_range": 0.02, "intermediate_size": 14336, "max_position_embeddings": 131072, "mlp_bias": False,
    "model_type": "llama", "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8,
    "pretraining_tp": 1, "rms_norm_eps": 1e-05,
    "rope_scaling": {
        "factor": 8.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0, "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    },
    "rope_theta": 500000.0, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
    "transformers_version": "4.43.0.dev0", "use_cache": True, "vocab_size": 128256,
}  # fmt: skip
QWEN3_30B = {
    "architectures": ["Qwen3MoeForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
    "bos_token_id": 151643, "decoder_sparse_step": 1, "eos_token_id": 151645, "head_dim": 128, "hidden_act": "silu",
    "hidden_size": 2048, "initializer_range": 0.02, "intermediate_size": 6144, "max_position_embeddings": 40960,
    "max_window_layers": 48, "mlp_only_layers": [], "model_type": "qwen3_moe", "moe_intermediate_size": 768,
    "norm_topk_prob": True, "num_attention_heads": 32, "num_experts": 128, "num_experts_per_tok": 8,
    "num_hidden_layers": 48, "num_key_value_heads": 4, "output_router_logits": False, "rms_norm_eps": 1e-06,
    "rope_scaling": None, "rope_theta": 1000000.0, "router_aux_loss_coef": 0.001, "sliding_window": None,
    "tie_word_embeddings": False, "torch_dtype": "bfloat16", "transformers_version": "4.51.0", "use_cache": True,
    "use_sliding_window": False, "vocab_size": 151936,
}  # fmt: skip
INSTELLA_3B = {
    "architectures": ["InstellaForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
    "auto_map": {"AutoConfig": "modeling_instella.InstellaConfig"}, "eos_token_id": 0, "hidden_act": "silu",
    "hidden_size": 2560, "initializer_range": 0.02, "intermediate_size": 6912, "max_position_embeddings": 4096,
    "model_type": "instella", "num_attention_heads": 32, "num_hidden_layers": 36, "num_key_value_heads": 32,
    "pad_token_id": 1, "rms_norm_eps": 1e-05, "rope_scaling": None, "rope_theta": 10000.0,
    "tie_word_embeddings": False, "torch_dtype": "bfloat16", "use_cache": True, "vocab_size": 50304,
}  # fmt: skip


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("written_by", ["us", "transformers"])
def test_a_model_is_read_back_from_its_config(name, written_by, tmp_path):
    spec = small_spec(**ARCHITECTURES[name])
    config = hf_config(spec, 0)
    if written_by == "transformers":
        AutoConfig.for_model(**config).save_pretrained(tmp_path)
        config = json.loads((tmp_path / "config.json").read_text())
        config["dtype"] = spec.dtype
    read = spec_from_hf(config)
    assert hf_config(read, 0) == hf_config(spec, 0)
    assert family_of(read) == family_of(spec)
    assert hf_shapes(read) == hf_shapes(spec)
    for field in ("num_layers", "head_size", "qk_norm", "rope_scaling", "tie_word_embeddings", "dtype"):
        assert getattr(read, field) == getattr(spec, field)


@pytest.mark.parametrize(
    ("config", "billions"),
    [(LLAMA_31_8B, 8.03), (QWEN3_30B, 30.53), (INSTELLA_3B, 3.11)],
    ids=["llama 3.1", "qwen3", "instella"],
)
def test_published_configs_have_the_published_size(config, billions):
    assert spec_from_hf(config).parameter_count() / 1e9 == pytest.approx(billions, abs=0.006)


def test_the_older_and_the_newer_way_to_say_rope_are_one():
    newer = {name: value for name, value in LLAMA_31_8B.items() if name not in ("rope_scaling", "rope_theta")}
    newer["rope_parameters"] = LLAMA_31_8B["rope_scaling"] | {"rope_theta": 500000.0}
    assert spec_from_hf(newer) == spec_from_hf(LLAMA_31_8B) == spec_from_hf(LLAMA_31_8B | newer)
    assert spec_from_hf(LLAMA_31_8B).rope_theta == 500000.0


@pytest.mark.parametrize(
    "scaling",
    [
        None,
        LLAMA3,
        YARN,
        YARN | {"beta_fast": 20.0, "beta_slow": 2.0, "attention_factor": 1.3},
        {"type": "linear", "factor": 3.0},
    ],
    ids=str,
)
def test_the_written_rope_makes_transformers_rotate_as_we_do(scaling):
    spec = small_spec(rope_scaling=scaling, rope_theta=5e5, head_dim=64)
    config = AutoConfig.for_model(**hf_config(spec))
    kind = config.rope_parameters["rope_type"]
    if kind == "default":
        frequencies, factor = 5e5 ** -(torch.arange(0, 64, 2, dtype=torch.float64) / 64), 1.0
    else:
        frequencies, factor = ROPE_INIT_FUNCTIONS[kind](config, torch.device("cpu"))
    torch.testing.assert_close(inverse_frequencies(spec).double(), frequencies.double(), rtol=1e-5, atol=0)
    assert attention_factor(spec) == pytest.approx(factor)


def test_mistral_is_llama_unless_a_window_cuts_its_attention():
    mistral = {k: v for k, v in LLAMA_31_8B.items() if k != "rope_scaling"} | {"model_type": "mistral"}
    assert family_of(spec_from_hf(mistral | {"sliding_window": None})).model_type == "llama"
    assert spec_from_hf(mistral | {"sliding_window": 131072}) == spec_from_hf(mistral)
    with pytest.raises(ConfigError, match=r"sliding_window=4096 of config\.json is smaller than max_position_embeddi"):
        spec_from_hf(mistral | {"sliding_window": 4096})


REFUSED = [
    ({"model_type": "gemma3"}, "model_type=gemma3 is not supported: glm4_moe, instella, llama, mistral"),
    ({"rms_norm_eps": None}, "config.json lacks rms_norm_eps"),
    ({"attention_bias": True}, "attention_bias=True of config.json is not supported: False is"),
    ({"mlp_bias": True}, "mlp_bias=True of config.json is not supported: False is"),
    ({"hidden_act": "gelu"}, "hidden_act='gelu' of config.json is not supported: 'silu' is"),
    ({"attention_dropout": 0.1}, "attention_dropout=0.1 of config.json is not supported: 0.0 is"),
    ({"partial_rotary_factor": 0.5}, "partial_rotary_factor=0.5 of config.json is not supported: 1.0 is"),
    ({"quantization_config": {"quant_method": "fp8"}}, "quantization_config={'quant_method': 'fp8'} of config.json"),
    ({"num_nextn_predict_layers": 1}, "num_nextn_predict_layers=1 of config.json is not supported: 0 is"),
    ({"layer_types": ["full_attention", "sliding_attention"]}, "has 'sliding_attention', which is not supported"),
    ({"logit_scale": 8.0}, "config.json has logit_scale=8.0, which we do not know of a llama: remove it if"),
    ({"torch_dtype": "float16"}, "dtype=float16 of config.json is not supported: set dtype to float32 or bfloat16"),
    ({"num_key_value_heads": 3}, "not describe a model of ours: num_query_groups 3 must divide num_attention_heads 32"),
    ({"vocab_size": "many"}, "config.json does not describe a model of ours: vocab_size: Input should be a valid int"),
    ({"rope_theta": -1.0}, "rope_theta=-1.0: a positive number is needed"),
    ({"rope_scaling": {"rope_type": "linear"}}, "rope_scaling of type linear lacks factor"),
    ({"rope_scaling": {"factor": 4.0}}, "rope_scaling.factor=4.0 has no meaning with rope_type=default: is the type"),
    ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "rope_scaling.rope_type=dynamic is not supported: default"),
    ({"rope_scaling": {"type": "yarn", "factor": 4.0}}, "rope scaling of type yarn needs original_max_position_embed"),
    ({"rope_scaling": YARN | {"mscale": 0.7}}, "rope_scaling.mscale=0.7 is not supported: None is"),
    ({"rope_scaling": YARN | {"truncate": False}}, "rope_scaling.truncate=False is not supported: True is"),
    ({"rope_scaling": {"type": "linear", "factor": 0.5}}, "rope_scaling.factor=0.5 would shorten the context"),
    ({"rope_scaling": LLAMA3 | {"original_max_position_embeddings": 262144}}, "=262144 is more than max_position"),
    ({"rope_scaling": "linear"}, "config.json has rope_scaling='linear': a mapping is needed"),
    ({"rope_parameters": {"rope_theta": 1e4}}, "contradicts itself: rope_scaling is not what rope_parameters says"),
    (
        {"rope_scaling": None, "rope_parameters": {"rope_theta": 1e4}},
        "contradicts itself: rope_parameters.rope_theta=10000.0 and rope_theta=500000.0",
    ),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED, ids=lambda value: str(value)[:60])
def test_what_we_would_compute_otherwise_is_refused_in_one_line(changes, message):
    with pytest.raises(ConfigError) as raised:
        spec_from_hf(LLAMA_31_8B | changes)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mlp_only_layers": [0]}, "mlp_only_layers=[0] of config.json is not supported: [] is"),
        ({"decoder_sparse_step": 2}, "decoder_sparse_step=2 of config.json is not supported: 1 is"),
        ({"num_experts_per_tok": 129}, "top_k 129 is more than num_experts 128"),
        ({"num_experts": None}, "config.json lacks num_experts"),
        ({"use_sliding_window": True, "sliding_window": 4096}, "sliding_window=4096 of config.json is smaller"),
    ],
    ids=str,
)
def test_mixtures_that_are_not_ours_are_refused(changes, message):
    with pytest.raises(ConfigError) as raised:
        spec_from_hf(QWEN3_30B | changes)
    assert message in str(raised.value)


@pytest.mark.parametrize("lacking", ["first_k_dense_replace", "partial_rotary_factor"])
def test_what_transformers_would_take_for_a_missing_field_counts(lacking):
    config = hf_config(small_spec(**ARCHITECTURES["glm4 moe"]))
    del config[lacking]
    config["rope_parameters"].pop(lacking, None)
    with pytest.raises(ConfigError, match=f"{lacking}=.* is not supported"):
        spec_from_hf(config)


MOE = EXPERTS | {"normalize_top_k": False}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"moe": MOE}, "moe.normalize_top_k=false has no place in Hugging Face's MixtralForCausalLM"),
        ({"moe": EXPERTS, "qk_norm": "full"}, "moe.normalize_top_k=true has no place in Hugging Face's Olmoe"),
        ({"moe": EXPERTS | SIGMOID, "qk_norm": "full"}, "moe.score=sigmoid with qk_norm=full has no place in any"),
        ({"moe": EXPERTS | {"shared_expert_ffn_hidden_size": 32}}, "moe.shared_expert_ffn_hidden_size=32 has no place"),
        ({"moe": EXPERTS | SIGMOID | {"shared_expert_ffn_hidden_size": 48}}, "must be a multiple of moe.expert_ffn_hi"),
        ({"moe": EXPERTS | {"scaling_factor": 2.0}}, "moe.scaling_factor=2 has no place"),
        ({"qk_norm": "full", "head_dim": 32}, "head_dim=32 has no place in Hugging Face's OlmoeForCausalLM"),
        ({"qk_norm": "full", "rms_norm_eps": 1e-6}, "rms_norm_eps=1e-06 has no place"),
        ({"qk_norm": "full", "tie_word_embeddings": True}, "tie_word_embeddings=true has no place"),
        ({"hidden_size": 66, "head_dim": 16}, "hidden_size=66 with num_attention_heads=4 has no place"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_a_model_that_no_architecture_holds_is_refused_by_field(changes, message):
    with pytest.raises(ConfigError) as raised:
        hf_config(small_spec(**changes))
    assert message in str(raised.value)


@given(
    factor=st.floats(1, 64),
    original=st.integers(16, 4096),
    theta=st.floats(1e3, 1e7),
    kind=st.sampled_from(["llama3", "yarn", "linear"]),
)
def test_every_rope_is_read_as_it_was_written(factor, original, theta, kind):
    fields = {"type": kind, "factor": factor}
    if kind != "linear":
        fields["original_max_position_embeddings"] = original
    if kind == "llama3":
        fields |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
    spec = small_spec(rope_scaling=fields, rope_theta=theta, max_position_embeddings=8192)
    read = spec_from_hf(json.loads(json.dumps(hf_config(spec))))
    assert read.rope_scaling == spec.rope_scaling
    assert math.isclose(read.rope_theta, theta, rel_tol=0)
