"""The `ModelSpec` of somebody else's `config.json`. What we would compute otherwise is refused by name, not ignored."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from pydantic import ValidationError

from tatara.errors import ConfigError
from tatara.model.hf_families import GLM4_MOE, INSTELLA, LLAMA, MIXTRAL, OLMOE, QWEN3, QWEN3_MOE, Family
from tatara.model.hf_rope import rope_of
from tatara.model.spec import MixtureOfExperts, ModelSpec

# Mistral is Llama, as long as no window cuts its attention.
_FAMILIES = {family.model_type: family for family in (LLAMA, QWEN3, MIXTRAL, QWEN3_MOE, GLM4_MOE, OLMOE, INSTELLA)} | {
    "mistral": replace(LLAMA, model_type="mistral")
}
_REQUIRED = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "max_position_embeddings", "rms_norm_eps",
)  # fmt: skip
_READ = {
    *_REQUIRED, "model_type", "num_key_value_heads", "head_dim", "initializer_range", "tie_word_embeddings", "dtype",
    "torch_dtype", "rope_parameters", "rope_scaling", "rope_theta", "sliding_window", "use_sliding_window",
    "max_window_layers", "layer_types", "num_experts_per_tok", "router_aux_loss_coef",
}  # fmt: skip
# Of no effect on what the model computes.
_IGNORED = {
    "architectures", "auto_map", "transformers_version", "_name_or_path", "_commit_hash", "use_cache", "bos_token_id",
    "eos_token_id", "pad_token_id", "sep_token_id", "output_router_logits", "return_dict", "output_attentions",
    "output_hidden_states", "id2label", "label2id", "problem_type", "chunk_size_feed_forward", "pretraining_tp",
    "keys_to_ignore_at_inference", "num_return_sequences", "finetuning_task", "task_specific_params", "name_or_path",
    "tokenizer_class", "prefix", "use_bfloat16", "torchscript", "tf_legacy_loss", "return_dict_in_generate",
}  # fmt: skip
# The values that a field may have; what it is when it is left out comes first.
_EVERYWHERE: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu", "swish"),
    "attention_bias": (False, None),
    "mlp_bias": (False, None),
    "attention_dropout": (0.0, None),
    "partial_rotary_factor": (1.0, None),
    "quantization_config": (None,),
    "is_encoder_decoder": (False,),
    "add_cross_attention": (False,),
    "tie_encoder_decoder": (False,),
    "cross_attention_hidden_size": (None,),
    "pruned_heads": ({}, None),
    "num_nextn_predict_layers": (0, None),
    "num_mtp_layers": (0, None),
}
_BY_FAMILY: dict[str, dict[str, tuple[Any, ...]]] = {
    "mixtral": {"router_jitter_noise": (0.0,), "num_local_experts": ()},
    "qwen3_moe": {
        "decoder_sparse_step": (1,),
        "mlp_only_layers": ([], None),
        "moe_intermediate_size": (),
        "norm_topk_prob": (),
        "num_experts": (),
        "num_local_experts": (),
    },
    "olmoe": {"clip_qkv": (None,), "num_experts": (), "num_local_experts": (), "norm_topk_prob": ()},
    "glm4_moe": {
        # Left out, they would be 1 and 0.5.
        "first_k_dense_replace": (0,),
        "partial_rotary_factor": (1.0,),
        "n_group": (1,),
        "topk_group": (1,),
        "moe_intermediate_size": (),
        "norm_topk_prob": (),
        "n_routed_experts": (),
        "n_shared_experts": (),
        "routed_scaling_factor": (),
        "use_qk_norm": (),
    },
}
_WANTED = {"glm4_moe": {"first_k_dense_replace": 1, "partial_rotary_factor": 0.5}}


def family_of_config(config: Mapping[str, Any]) -> Family:
    """How the tensors beside a `config.json` are called.

    Raises:
        ConfigError: Its ``model_type`` is not one of ours.
    """
    kind = config.get("model_type")
    if kind not in _FAMILIES:
        raise ConfigError(f"model_type={kind} is not supported: {', '.join(sorted(_FAMILIES))} are")
    return _FAMILIES[kind]


def spec_from_hf(config: Mapping[str, Any], dtype: str | None = None) -> ModelSpec:
    """The architecture that a `config.json` describes.

    Args:
        config: Its content.
        dtype: Of the weights; None means as it says.

    Raises:
        ConfigError: A field is missing, unknown, or has a value that would make the model another one than ours.
    """
    family = family_of_config(config)
    _check_fields(family, config)
    _check_window(family, config)
    theta, scaling = rope_of(config, 1e6 if family is MIXTRAL else 1e4)
    # One expert is none.
    moe = _mixture(family, config) if family.experts and _experts(family, config) != 1 else None
    heads = config["num_attention_heads"]
    fields = {
        "vocab_size": config["vocab_size"],
        "num_layers": config["num_hidden_layers"],
        "hidden_size": config["hidden_size"],
        "num_attention_heads": heads,
        "num_query_groups": heads if config.get("num_key_value_heads") is None else config["num_key_value_heads"],
        "head_dim": _head_dim(family, config),
        "ffn_hidden_size": config["intermediate_size"],
        "max_position_embeddings": config["max_position_embeddings"],
        "rope_theta": theta,
        "rope_scaling": scaling,
        "qk_norm": _qk_norm(family, config),
        "moe": moe,
        "rms_norm_eps": config["rms_norm_eps"],
        "tie_word_embeddings": bool(config.get("tie_word_embeddings", False)),
        "init_std": config.get("initializer_range") or 0.02,
        "dtype": _dtype(config, dtype),
    }
    return _validated(ModelSpec, fields)


def _check_fields(family: Family, config: Mapping[str, Any]) -> None:
    for name in _REQUIRED:
        if config.get(name) is None:
            raise ConfigError(f"config.json lacks {name}")
    own = _BY_FAMILY.get(family.model_type, {})
    allowed = _EVERYWHERE | own
    for name, value in {**_WANTED.get(family.model_type, {}), **_inner(config), **config}.items():
        if name not in _READ | _IGNORED | allowed.keys():
            raise ConfigError(
                f"config.json has {name}={value!r}, which we do not know of a {family.model_type}: remove it if it "
                "does not change what the model computes"
            )
        values = allowed.get(name, ())
        if values and value not in values:
            raise ConfigError(f"{name}={value!r} of config.json is not supported: {values[0]!r} is")


def _inner(config: Mapping[str, Any]) -> dict[str, Any]:
    """What transformers 5 also takes from the rotary settings."""
    given = config.get("rope_parameters") or {}
    return {name: given[name] for name in ("partial_rotary_factor",) if name in given}


def _check_window(family: Family, config: Mapping[str, Any]) -> None:
    kinds = set(config.get("layer_types") or ()) - {"full_attention"}
    if kinds:
        raise ConfigError(f"layer_types of config.json has {min(kinds)!r}, which is not supported: 'full_attention' is")
    window, longest = config.get("sliding_window"), config["max_position_embeddings"]
    windowed = family.model_type in ("mistral", "mixtral") or bool(config.get("use_sliding_window", False))
    if windowed and window is not None and window < longest:
        raise ConfigError(
            f"sliding_window={window} of config.json is smaller than max_position_embeddings={longest}, which is not "
            "supported: null is"
        )


def _experts(family: Family, config: Mapping[str, Any]) -> int:
    names = {MIXTRAL: ("num_local_experts",), GLM4_MOE: ("n_routed_experts",)}
    for name in names.get(family, ("num_experts", "num_local_experts")):
        if config.get(name) is not None:
            return int(config[name])
    raise ConfigError(f"config.json lacks {names.get(family, ('num_experts',))[0]}")


def _mixture(family: Family, config: Mapping[str, Any]) -> MixtureOfExperts:
    if config.get("num_experts_per_tok") is None:
        raise ConfigError("config.json lacks num_experts_per_tok")
    own_width = family in (QWEN3_MOE, GLM4_MOE)
    width = config.get("moe_intermediate_size") if own_width else config["intermediate_size"]
    if width is None:
        raise ConfigError("config.json lacks moe_intermediate_size")
    coefficient = config.get("router_aux_loss_coef") or 0.0
    sigmoid = family is GLM4_MOE
    # What transformers takes where it is left out.
    normalised = True if family is MIXTRAL else config.get("norm_topk_prob", sigmoid)
    fields = {
        "num_experts": _experts(family, config),
        "top_k": config["num_experts_per_tok"],
        "expert_ffn_hidden_size": width,
        "shared_expert_ffn_hidden_size": width * config.get("n_shared_experts", 1) if sigmoid else 0,
        "score": "sigmoid" if sigmoid else "softmax",
        "normalize_top_k": normalised,
        "scaling_factor": config.get("routed_scaling_factor", 1.0),
        "balancing": "bias" if sigmoid else "auxiliary" if coefficient else "none",
        **({"auxiliary_coefficient": coefficient} if coefficient else {}),
    }
    moe: MixtureOfExperts = _validated(MixtureOfExperts, fields)
    return moe


def _qk_norm(family: Family, config: Mapping[str, Any]) -> str:
    if family in (OLMOE, INSTELLA):
        return "full"
    if family is GLM4_MOE:
        return "head" if config.get("use_qk_norm", False) else "none"
    return "head" if family in (QWEN3, QWEN3_MOE) else "none"


def _head_dim(family: Family, config: Mapping[str, Any]) -> int | None:
    """Width of one head; None where it is what follows from the others."""
    given = config.get("head_dim")
    if given is None and family is QWEN3:
        # What transformers takes; other readers divide.
        given = 128
    usual = config["hidden_size"] // config["num_attention_heads"]
    return None if given == usual and not config["hidden_size"] % config["num_attention_heads"] else given


def _dtype(config: Mapping[str, Any], wanted: str | None) -> str:
    if wanted is not None:
        return wanted
    stored = config.get("dtype") or config.get("torch_dtype") or "float32"
    if stored not in ("float32", "bfloat16"):
        raise ConfigError(f"dtype={stored} of config.json is not supported: set dtype to float32 or bfloat16")
    return str(stored)


def _validated(kind: Callable[..., Any], fields: dict[str, Any]) -> Any:
    try:
        return kind(**fields)
    except ValidationError as error:
        first = error.errors()[0]
        what = ": ".join([*map(str, first["loc"]), first["msg"].removeprefix("Value error, ")])
        raise ConfigError(f"config.json does not describe a model of ours: {what}") from None
