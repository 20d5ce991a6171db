"""Published architectures, and toys of each kind that train on a laptop.

An entry says what the weights look like, as released; `parameter_count` of each is the published total. Learning rates
and the like belong to recipes. Published sizes compute in bfloat16, toys in float32. Imports nothing heavy.
"""

import difflib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from tatara.errors import ConfigError
from tatara.model.spec import MixtureOfExperts, ModelSpec, RopeScaling


def preset(name: str) -> ModelSpec:
    """The architecture of that name.

    Raises:
        ConfigError: There is none; the message names those that are alike.
    """
    if name in PRESETS:
        return PRESETS[name]
    close = difflib.get_close_matches(name.lower(), PRESETS, cutoff=0.4) or list(PRESETS)
    raise ConfigError(f"unknown model {name}: did you mean {' or '.join(close)}?")


def _llama3(num_layers: int, hidden_size: int, num_attention_heads: int, ffn_hidden_size: int) -> ModelSpec:
    """The Llama 3 herd, arXiv:2407.21783 table 3. Context is that of the main part of pretraining."""
    return ModelSpec(
        vocab_size=128256,
        num_layers=num_layers,
        hidden_size=hidden_size,
        num_attention_heads=num_attention_heads,
        num_query_groups=8,
        ffn_hidden_size=ffn_hidden_size,
        max_position_embeddings=8192,
        rope_theta=500000.0,
        dtype="bfloat16",
    )


def _llama31(base: ModelSpec) -> ModelSpec:
    """Its release 3.1, after long-context pretraining: rope_scaling of `config.json` of meta-llama/Llama-3.1-8B."""
    scaling = RopeScaling(
        type="llama3", factor=8.0, original_max_position_embeddings=8192, low_freq_factor=1.0, high_freq_factor=4.0
    )
    return base.model_copy(update={"max_position_embeddings": 131072, "rope_scaling": scaling})


def _qwen3(
    num_layers: int, hidden_size: int, num_attention_heads: int, ffn_hidden_size: int, **changes: Any
) -> ModelSpec:
    """Qwen3, arXiv:2505.09388 tables 1 and 2; widths and context from `config.json` of the released models."""
    fields: dict[str, Any] = {
        "vocab_size": 151936,
        "num_layers": num_layers,
        "hidden_size": hidden_size,
        "num_attention_heads": num_attention_heads,
        "num_query_groups": 8,
        "head_dim": 128,
        "ffn_hidden_size": ffn_hidden_size,
        "max_position_embeddings": 40960,
        "rope_theta": 1000000.0,
        "rms_norm_eps": 1e-6,
        "qk_norm": "head",
        "dtype": "bfloat16",
    }
    return ModelSpec(**(fields | changes))


def _qwen3_experts(expert_ffn_hidden_size: int) -> MixtureOfExperts:
    """128 experts of which 8 are active, none shared."""
    return MixtureOfExperts(
        num_experts=128, top_k=8, expert_ffn_hidden_size=expert_ffn_hidden_size, auxiliary_coefficient=0.001
    )


def _mistral(**changes: Any) -> ModelSpec:
    """Shape of Mistral 7B (arXiv:2310.06825 table 1), which Mixtral 8x7B and Tanuki share."""
    fields: dict[str, Any] = {
        "vocab_size": 32768,
        "num_layers": 32,
        "hidden_size": 4096,
        "num_attention_heads": 32,
        "num_query_groups": 8,
        "ffn_hidden_size": 14336,
        "max_position_embeddings": 32768,
        "rope_theta": 1000000.0,
        "dtype": "bfloat16",
    }
    return ModelSpec(**(fields | changes))


def _eight_experts(auxiliary_coefficient: float) -> MixtureOfExperts:
    """Mixtral, arXiv:2401.04088 section 2."""
    return MixtureOfExperts(
        num_experts=8, top_k=2, expert_ffn_hidden_size=14336, auxiliary_coefficient=auxiliary_coefficient
    )


def _toy(**changes: Any) -> ModelSpec:
    """Two layers, so that a pipeline has two stages, and sizes that tp 2 and ep 4 divide."""
    fields: dict[str, Any] = {
        "vocab_size": 1024,
        "num_layers": 2,
        "hidden_size": 64,
        "num_attention_heads": 4,
        "num_query_groups": 2,
        "ffn_hidden_size": 192,
        "max_position_embeddings": 512,
    }
    return ModelSpec(**(fields | changes))


def _toy_experts(**changes: Any) -> MixtureOfExperts:
    fields: dict[str, Any] = {"num_experts": 4, "top_k": 2, "expert_ffn_hidden_size": 96}
    return MixtureOfExperts(**(fields | changes))


_LLAMA3 = {
    "8b": _llama3(32, 4096, 32, 14336),
    "70b": _llama3(80, 8192, 64, 28672),
    "405b": _llama3(126, 16384, 128, 53248),
}

PRESETS: Mapping[str, ModelSpec] = MappingProxyType(
    {f"llama3-{size}": spec for size, spec in _LLAMA3.items()}
    | {f"llama3.1-{size}": _llama31(spec) for size, spec in _LLAMA3.items()}
    | {
        # configs/instella-3b-pretrain-stage1.yaml of AMD-AIG-AIMA/Instella: the gated width there is 13824 = 2 x 6912,
        # the OLMo tokenizer's 50,280 tokens have 50,304 rows, and the base of the rotation is OLMo's.
        "instella-3b": ModelSpec(
            vocab_size=50304,
            num_layers=36,
            hidden_size=2560,
            num_attention_heads=32,
            num_query_groups=32,
            ffn_hidden_size=6912,
            max_position_embeddings=4096,
            rope_theta=10000.0,
            qk_norm="full",
            dtype="bfloat16",
        ),
        # config.json of weblab-GENIAC/Tanuki-8B-dpo-v1.0.
        "tanuki-8b": _mistral(vocab_size=65024, max_position_embeddings=8192, rope_theta=500000.0),
        # config.json of weblab-GENIAC/Tanuki-8x8B-dpo-v1.0.
        "tanuki-8x8b": _mistral(
            vocab_size=65024, max_position_embeddings=4096, rope_theta=500000.0, moe=_eight_experts(0.001)
        ),
        # config.json of mistralai/Mistral-7B-v0.3, which dropped the sliding window of v0.1.
        "mistral-7b": _mistral(),
        # config.json of mistralai/Mixtral-8x7B-v0.1.
        "mixtral-8x7b": _mistral(vocab_size=32000, moe=_eight_experts(0.02)),
        "qwen3-0.6b": _qwen3(28, 1024, 16, 3072, tie_word_embeddings=True),
        "qwen3-1.7b": _qwen3(28, 2048, 16, 6144, tie_word_embeddings=True),
        "qwen3-4b": _qwen3(36, 2560, 32, 9728, tie_word_embeddings=True),
        "qwen3-8b": _qwen3(36, 4096, 32, 12288),
        "qwen3-14b": _qwen3(40, 5120, 40, 17408),
        "qwen3-32b": _qwen3(64, 5120, 64, 25600),
        "qwen3-30b-a3b": _qwen3(48, 2048, 32, 6144, num_query_groups=4, moe=_qwen3_experts(768)),
        "qwen3-235b-a22b": _qwen3(94, 4096, 64, 12288, num_query_groups=4, moe=_qwen3_experts(1536)),
        "toy-llama": _toy(),
        "toy-qwen3": _toy(head_dim=32, qk_norm="head", tie_word_embeddings=True, rms_norm_eps=1e-6),
        "toy-instella": _toy(num_query_groups=4, qk_norm="full"),
        "toy-mixtral": _toy(moe=_toy_experts()),
        "toy-qwen3-moe": _toy(head_dim=32, qk_norm="head", rms_norm_eps=1e-6, moe=_toy_experts(num_experts=8)),
        # The balancing of DeepSeek-V3 (arXiv:2412.19437 section 2.1.2) and GLM-4.5 (arXiv:2508.06471 section 2.1).
        "toy-shared-experts": _toy(
            moe=_toy_experts(num_experts=8, shared_expert_ffn_hidden_size=96, score="sigmoid", balancing="bias")
        ),
    }
)
