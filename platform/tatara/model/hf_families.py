"""Which Hugging Face architecture holds a model, and the `config.json` that describes it there."""

from dataclasses import dataclass
from typing import Any

from tatara.errors import ConfigError
from tatara.model.hf_rope import rope_parameters
from tatara.model.spec import ModelSpec


@dataclass(frozen=True)
class Family:
    """One architecture of transformers.

    Attributes:
        model_type: Its name in `config.json`.
        architecture: Its class, which vLLM knows by the same name.
        experts: Whether its files hold experts and a router, which a dense model then has one of.
    """

    model_type: str
    architecture: str
    experts: bool


LLAMA = Family("llama", "LlamaForCausalLM", experts=False)
QWEN3 = Family("qwen3", "Qwen3ForCausalLM", experts=False)
MIXTRAL = Family("mixtral", "MixtralForCausalLM", experts=True)
QWEN3_MOE = Family("qwen3_moe", "Qwen3MoeForCausalLM", experts=True)
GLM4_MOE = Family("glm4_moe", "Glm4MoeForCausalLM", experts=True)
OLMOE = Family("olmoe", "OlmoeForCausalLM", experts=True)
# Read, never written: its code is in its own repository, and neither transformers nor vLLM has it. As a mixture of one
# expert, whose router has nothing to choose, OLMoE computes the same.
INSTELLA = Family("instella", "InstellaForCausalLM", experts=False)

_OLMOE_EPS = 1e-5


def family_of(spec: ModelSpec) -> Family:
    """The architecture that a model is written as.

    Raises:
        ConfigError: None computes the same, in transformers and in vLLM; the message names the field.
    """
    family = _candidate(spec)
    for wrong, field, reason in _obstacles(family, spec):
        if wrong:
            raise ConfigError(f"{field} has no place in Hugging Face's {family.architecture}: {reason}")
    return family


def _candidate(spec: ModelSpec) -> Family:
    if spec.moe is None:
        return {"none": LLAMA, "head": QWEN3, "full": OLMOE}[spec.qk_norm]
    if spec.moe.score == "softmax":
        return {"none": MIXTRAL, "head": QWEN3_MOE, "full": OLMOE}[spec.qk_norm]
    if spec.qk_norm == "full":
        raise ConfigError(
            "moe.score=sigmoid with qk_norm=full has no place in any Hugging Face architecture: take qk_norm=head, "
            "or moe.score=softmax"
        )
    return GLM4_MOE


def _obstacles(family: Family, spec: ModelSpec) -> list[tuple[bool, str, str]]:
    """What the architecture cannot say: (whether it is so, the field, what to do)."""
    own_width = spec.head_size * spec.num_attention_heads != spec.hidden_size
    found = [
        (
            family is LLAMA and bool(spec.hidden_size % spec.num_attention_heads),
            f"hidden_size={spec.hidden_size} with num_attention_heads={spec.num_attention_heads}",
            "the heads must divide the width, or take qk_norm=head",
        ),
        (family is OLMOE and own_width, f"head_dim={spec.head_size}", "leave it out"),
        # vLLM has it written into its code.
        (
            family is OLMOE and spec.rms_norm_eps != _OLMOE_EPS,
            f"rms_norm_eps={spec.rms_norm_eps:g}",
            f"vLLM computes this architecture with {_OLMOE_EPS:g}, whatever the configuration says",
        ),
        # vLLM keeps a separate output projection, which would then not be loaded.
        (
            family in (OLMOE, GLM4_MOE) and spec.tie_word_embeddings,
            "tie_word_embeddings=true",
            "vLLM does not tie its embeddings",
        ),
    ]
    moe = spec.moe
    if moe is None:
        return found
    shared, width = moe.shared_expert_ffn_hidden_size, moe.expert_ffn_hidden_size
    return [
        *found,
        (
            family is MIXTRAL and not moe.normalize_top_k,
            "moe.normalize_top_k=false",
            "its weights sum to one; take qk_norm=head or full",
        ),
        (
            family is OLMOE and moe.normalize_top_k,
            "moe.normalize_top_k=true",
            "vLLM never normalises in this architecture; take qk_norm=head or none",
        ),
        (
            family is not GLM4_MOE and moe.scaling_factor != 1.0,
            f"moe.scaling_factor={moe.scaling_factor:g}",
            "only moe.score=sigmoid has it",
        ),
        (
            family is not GLM4_MOE and shared > 0,
            f"moe.shared_expert_ffn_hidden_size={shared}",
            "only moe.score=sigmoid has shared experts",
        ),
        (
            family is GLM4_MOE and bool(shared % width),
            f"moe.shared_expert_ffn_hidden_size={shared}",
            f"it must be a multiple of moe.expert_ffn_hidden_size={width}",
        ),
    ]


def hf_config(spec: ModelSpec, eos_token_id: int | None = None) -> dict[str, Any]:
    """The `config.json` of a model, as transformers 5 and vLLM read it.

    `rope_theta` and `rope_scaling` say again, for readers of transformers 4, what `rope_parameters` says.

    Raises:
        ConfigError: No Hugging Face architecture holds the model.
    """
    family = family_of(spec)
    rope = rope_parameters(spec)
    config: dict[str, Any] = {
        "architectures": [family.architecture],
        "model_type": family.model_type,
        "vocab_size": spec.vocab_size,
        "hidden_size": spec.hidden_size,
        "intermediate_size": spec.ffn_hidden_size,
        "num_hidden_layers": spec.num_layers,
        "num_attention_heads": spec.num_attention_heads,
        "num_key_value_heads": spec.num_query_groups,
        "head_dim": spec.head_size,
        "hidden_act": "silu",
        "max_position_embeddings": spec.max_position_embeddings,
        "initializer_range": spec.init_std,
        "rms_norm_eps": spec.rms_norm_eps,
        "rope_theta": spec.rope_theta,
        "rope_parameters": rope,
        "tie_word_embeddings": spec.tie_word_embeddings,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": eos_token_id,
        "eos_token_id": eos_token_id,
        "pad_token_id": eos_token_id,
        "dtype": spec.dtype,
        "use_cache": True,
    }
    if spec.rope_scaling:
        config["rope_scaling"] = {name: value for name, value in rope.items() if name != "rope_theta"}
    return config | _family_fields(family, spec)


def _family_fields(family: Family, spec: ModelSpec) -> dict[str, Any]:
    if family is LLAMA:
        return {"mlp_bias": False}
    if family is QWEN3:
        return {"use_sliding_window": False, "sliding_window": None}
    if spec.moe is None:
        # A mixture of one expert.
        return {"num_experts": 1, "num_experts_per_tok": 1, "norm_topk_prob": False, "clip_qkv": None}
    moe = spec.moe
    fields: dict[str, Any] = {"num_experts_per_tok": moe.top_k, "output_router_logits": False}
    if family is not GLM4_MOE:
        auxiliary = moe.balancing == "auxiliary"
        fields["router_aux_loss_coef"] = moe.auxiliary_coefficient if auxiliary else 0.0
    if family is MIXTRAL:
        return fields | {
            "num_local_experts": moe.num_experts,
            "intermediate_size": moe.expert_ffn_hidden_size,
            "router_jitter_noise": 0.0,
            "sliding_window": None,
        }
    fields["norm_topk_prob"] = moe.normalize_top_k
    if family is OLMOE:
        return fields | {
            "num_experts": moe.num_experts,
            "intermediate_size": moe.expert_ffn_hidden_size,
            "clip_qkv": None,
        }
    fields["moe_intermediate_size"] = moe.expert_ffn_hidden_size
    if family is QWEN3_MOE:
        return fields | {
            "num_experts": moe.num_experts,
            "decoder_sparse_step": 1,
            "mlp_only_layers": [],
            "use_sliding_window": False,
            "sliding_window": None,
        }
    return fields | {
        "n_routed_experts": moe.num_experts,
        # Without any, one of zeros is written.
        "n_shared_experts": max(moe.shared_expert_ffn_hidden_size // moe.expert_ffn_hidden_size, 1),
        "n_group": 1,
        "topk_group": 1,
        "routed_scaling_factor": moe.scaling_factor,
        "first_k_dense_replace": 0,
        "num_nextn_predict_layers": 0,
        "use_qk_norm": spec.qk_norm == "head",
        "partial_rotary_factor": 1.0,
        # vLLM halves it where it is not said here.
        "rope_parameters": rope_parameters(spec) | {"partial_rotary_factor": 1.0},
    }
