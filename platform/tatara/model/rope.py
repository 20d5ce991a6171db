"""Rotary frequencies of a `ModelSpec` (arXiv:2104.09864), stretched where it says so: pure arithmetic.

The numbers are those of transformers' `modeling_rope_utils.ROPE_INIT_FUNCTIONS`, so that an exported model rotates as
the trained one did.
"""

import math

import torch

from tatara.errors import ConfigError
from tatara.model.spec import ModelSpec, RopeScaling


def inverse_frequencies(spec: ModelSpec) -> torch.Tensor:
    """Radians per position of each pair of dimensions of a head.

    Computed in float64 and rounded once: at position 100,000 a relative error of 1e-7 turns a pair by 0.01 radians.

    Returns:
        `[head_size / 2]` float32.
    """
    dimensions = torch.arange(0, spec.head_size, 2, dtype=torch.float64)
    plain = spec.rope_theta ** (-dimensions / spec.head_size)
    scaling = spec.rope_scaling
    if scaling is None:
        return plain.float()
    if scaling.type == "linear":
        return (plain / scaling.factor).float()
    kept = _share_kept_llama3(plain, scaling) if scaling.type == "llama3" else _share_kept_yarn(spec, scaling)
    return (plain * kept + plain / scaling.factor * (1 - kept)).float()


def attention_factor(spec: ModelSpec) -> float:
    """What cosines and sines are multiplied with, so scores with its square; 1 but for YaRN (arXiv:2309.00071)."""
    scaling = spec.rope_scaling
    if scaling is None or scaling.type != "yarn":
        return 1.0
    if scaling.attention_factor is not None:
        return scaling.attention_factor
    return 0.1 * math.log(scaling.factor) + 1.0 if scaling.factor > 1 else 1.0


def _share_kept_llama3(plain: torch.Tensor, scaling: RopeScaling) -> torch.Tensor:
    """1 for wavelengths that stay, 0 for those that are stretched in full, linear in the frequency in between."""
    original, low, high = _original(scaling), scaling.low_freq_factor, scaling.high_freq_factor
    if low is None or high is None:
        raise ConfigError("rope scaling of type llama3 needs low_freq_factor and high_freq_factor")
    rotations = original * plain / (2 * math.pi)
    return ((rotations - low) / (high - low)).clamp(0, 1)


def _share_kept_yarn(spec: ModelSpec, scaling: RopeScaling) -> torch.Tensor:
    """As for llama3, but linear in the number of the pair, with the ends rounded outwards."""

    def pair_of(rotations: float) -> float:
        """The (fractional) pair that turns so often over the original context."""
        span = _original(scaling) / (rotations * 2 * math.pi)
        return spec.head_size * math.log(span) / (2 * math.log(spec.rope_theta))

    first = max(math.floor(pair_of(scaling.beta_fast or 32.0)), 0)
    last = min(math.ceil(pair_of(scaling.beta_slow or 1.0)), spec.head_size - 1)
    pairs = torch.arange(spec.head_size // 2, dtype=torch.float64)
    # transformers keeps the width of the ramp from being zero by the same amount.
    width = last - first if last != first else 0.001
    return 1 - ((pairs - first) / width).clamp(0, 1)


def _original(scaling: RopeScaling) -> int:
    if scaling.original_max_position_embeddings is None:
        raise ConfigError(f"rope scaling of type {scaling.type} needs original_max_position_embeddings")
    return scaling.original_max_position_embeddings
