"""Models of transformers with the weights of ours, as an independent reference."""

from typing import Any

import torch
import transformers

from model.megatron_cases import SEQUENCE, chunks, layout
from tatara.model.megatron import global_buffers, global_parameters, set_rope
from tatara.model.spec import ModelSpec


def twin_config(spec: ModelSpec) -> Any:
    """Configuration of the transformers model of the same architecture."""
    fields: dict[str, Any] = {
        "vocab_size": spec.vocab_size, "hidden_size": spec.hidden_size, "num_hidden_layers": spec.num_layers,
        "num_attention_heads": spec.num_attention_heads, "num_key_value_heads": spec.num_query_groups,
        "head_dim": spec.head_size, "intermediate_size": spec.ffn_hidden_size, "rms_norm_eps": spec.rms_norm_eps,
        "max_position_embeddings": spec.max_position_embeddings, "tie_word_embeddings": spec.tie_word_embeddings,
        "rope_parameters": _rope(spec), "attention_bias": False, "pad_token_id": None,
    }  # fmt: skip
    moe = spec.moe
    if moe is None:
        if spec.qk_norm == "full":
            # One expert, which every token visits with weight one.
            return transformers.OlmoeConfig(**fields, num_experts=1, num_experts_per_tok=1)
        return (transformers.Qwen3Config if spec.qk_norm == "head" else transformers.LlamaConfig)(**fields)
    fields |= {"num_experts_per_tok": moe.top_k, "norm_topk_prob": moe.normalize_top_k}
    if moe.score == "sigmoid":
        return transformers.Glm4MoeConfig(
            **fields | {"rope_parameters": _rope(spec) | {"partial_rotary_factor": 1.0}},
            n_routed_experts=moe.num_experts, moe_intermediate_size=moe.expert_ffn_hidden_size, n_shared_experts=1,
            first_k_dense_replace=0, use_qk_norm=spec.qk_norm == "head", routed_scaling_factor=moe.scaling_factor,
        )  # fmt: skip
    if spec.qk_norm == "head":
        return transformers.Qwen3MoeConfig(
            **fields, num_experts=moe.num_experts, moe_intermediate_size=moe.expert_ffn_hidden_size
        )
    fields |= {"intermediate_size": moe.expert_ffn_hidden_size}
    if spec.qk_norm == "full":
        return transformers.OlmoeConfig(**fields, num_experts=moe.num_experts)
    return transformers.MixtralConfig(**fields, num_local_experts=moe.num_experts)


def _rope(spec: ModelSpec) -> dict[str, Any]:
    scaling = spec.rope_scaling
    if scaling is None:
        return {"rope_type": "default", "rope_theta": spec.rope_theta}
    given = {name: value for name, value in scaling.model_dump().items() if value is not None and name != "type"}
    return {"rope_type": scaling.type, "rope_theta": spec.rope_theta, **given}


def twin(spec: ModelSpec) -> Any:
    """The transformers model; to be built under `torch.device("meta")` where only shapes matter."""
    return transformers.AutoModelForCausalLM.from_config(twin_config(spec))


def logits_of_both(spec: ModelSpec, live: ModelSpec | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of our model and of its twin for the same rows.

    Args:
        spec: The architecture.
        live: What `set_rope` gives our model after it has run once; the twin is built with it.
    """
    (model,) = chunks(spec, layout())
    model.eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        # What starts as ones or zeros must not be the same everywhere, or mistakes stay hidden.
        for _, tensor in [*global_parameters([model]), *global_buffers([model])]:
            if tensor.dim() == 1:
                tensor.add_(torch.randn(tensor.shape, generator=generator), alpha=0.3)
        tokens = torch.randint(0, spec.vocab_size, (2, SEQUENCE), generator=generator)
        positions = torch.arange(SEQUENCE).expand(2, -1)
        ours = model(tokens, positions, None)[..., : spec.vocab_size]
        if live is not None:
            set_rope([model], live)
            ours = model(tokens, positions, None)[..., : spec.vocab_size]
        reference = twin(live or spec).eval()
        tensors = {name: tensor.detach() for name, tensor in [*global_parameters([model]), *global_buffers([model])]}
        reference.load_state_dict(_twin_state(tensors, spec), strict=not spec.tie_word_embeddings)
        return ours, reference(tokens).logits


def _twin_state(ours: dict[str, torch.Tensor], spec: ModelSpec) -> dict[str, torch.Tensor]:
    state = {
        "model.embed_tokens.weight": ours["embedding.word_embeddings.weight"][: spec.vocab_size],
        "model.norm.weight": ours["decoder.final_layernorm.weight"],
    }
    if not spec.tie_word_embeddings:
        state["lm_head.weight"] = ours["output_layer.weight"][: spec.vocab_size]
    for number in range(spec.num_layers):
        prefix = f"decoder.layers.{number}."
        layer = {name.removeprefix(prefix): t for name, t in ours.items() if name.startswith(prefix)}
        theirs = _attention(layer, spec) | (_dense(layer, spec) if spec.moe is None else _experts(layer, spec))
        state |= {f"model.layers.{number}.{name}": tensor for name, tensor in theirs.items()}
    return state


def _attention(layer: dict[str, torch.Tensor], spec: ModelSpec) -> dict[str, torch.Tensor]:
    per_group = spec.num_attention_heads // spec.num_query_groups
    grouped = layer["self_attention.linear_qkv.weight"].view(spec.num_query_groups, per_group + 2, spec.head_size, -1)
    query, key, value = (part.reshape(-1, spec.hidden_size) for part in grouped.split([per_group, 1, 1], dim=1))
    theirs = {
        "input_layernorm.weight": layer["input_layernorm.weight"],
        "post_attention_layernorm.weight": layer["pre_mlp_layernorm.weight"],
        "self_attn.q_proj.weight": query,
        "self_attn.k_proj.weight": key,
        "self_attn.v_proj.weight": value,
        "self_attn.o_proj.weight": layer["self_attention.linear_proj.weight"],
    }
    if spec.qk_norm != "none":
        theirs["self_attn.q_norm.weight"] = layer["self_attention.q_layernorm.weight"]
        theirs["self_attn.k_norm.weight"] = layer["self_attention.k_layernorm.weight"]
    return theirs


def _dense(layer: dict[str, torch.Tensor], spec: ModelSpec) -> dict[str, torch.Tensor]:
    both, down = layer["mlp.linear_fc1.weight"], layer["mlp.linear_fc2.weight"]
    if spec.qk_norm == "full":
        router = torch.zeros(1, spec.hidden_size)
        return {"mlp.gate.weight": router, "mlp.experts.gate_up_proj": both[None], "mlp.experts.down_proj": down[None]}
    gate, up = both.chunk(2)
    return {"mlp.gate_proj.weight": gate, "mlp.up_proj.weight": up, "mlp.down_proj.weight": down}


def _experts(layer: dict[str, torch.Tensor], spec: ModelSpec) -> dict[str, torch.Tensor]:
    def stacked(name: str) -> torch.Tensor:
        return torch.stack([layer[f"mlp.experts.local_experts.{n}.{name}.weight"] for n in range(spec.moe.num_experts)])

    theirs = {
        "mlp.gate.weight": layer["mlp.router.weight"],
        "mlp.experts.gate_up_proj": stacked("linear_fc1"),
        "mlp.experts.down_proj": stacked("linear_fc2"),
    }
    if spec.moe.balancing == "bias":
        theirs["mlp.gate.e_score_correction_bias"] = layer["mlp.router.expert_bias"]
    if spec.moe.shared_expert_ffn_hidden_size:
        gate, up = layer["mlp.shared_experts.linear_fc1.weight"].chunk(2)
        theirs |= {
            "mlp.shared_experts.gate_proj.weight": gate,
            "mlp.shared_experts.up_proj.weight": up,
            "mlp.shared_experts.down_proj.weight": layer["mlp.shared_experts.linear_fc2.weight"],
        }
    return theirs
