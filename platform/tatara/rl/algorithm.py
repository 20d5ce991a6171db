"""Which reinforcement learning algorithm: presets, and every part of them by itself."""

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from tatara.config import Config
from tatara.train.policy import Correction, PolicyLoss

Preset = Literal["grpo", "dr_grpo", "dapo", "rloo", "gspo"]
Normalisation = Literal["sequence", "token", "constant"]

PRESETS: Mapping[str, Mapping[str, Any]] = {
    # arXiv:2402.03300, equations 3 and 4.
    "grpo": {"kl_coefficient": 0.04},
    # arXiv:2503.20783, section 3.2: neither the length nor the deviation divides.
    "dr_grpo": {"scale_by_deviation": False, "normalisation": "constant"},
    # arXiv:2503.14476: clip-higher, dynamic sampling, token-level loss, overlong reward shaping.
    "dapo": {"clip_high": 0.28, "normalisation": "token", "dynamic_sampling": True, "overlong_penalty": 1.0},
    # arXiv:2402.14740, section 3.2: REINFORCE; a ratio of one is never clipped, later steps on a batch are as in PPO.
    "rloo": {"advantage": "leave_one_out", "scale_by_deviation": False, "normalisation": "constant"},
    # arXiv:2507.18071, sections 4.1 and 5.1.
    "gspo": {"ratio_level": "sequence", "clip_low": 3e-4, "clip_high": 4e-4},
}
"""What each preset sets besides the defaults."""


class AlgorithmConfig(Config):
    """From the rewards of a group to the loss of its tokens. A preset sets the fields that are not given."""

    preset: Preset = "grpo"
    """Published algorithm to start from."""
    advantage: Literal["group_mean", "leave_one_out"] = "group_mean"
    """Baseline of a reward: the mean of its group, or of the others in the group."""
    scale_by_deviation: bool = True
    """Divide advantages by the standard deviation of the group's rewards (plus 1e-4)."""
    normalisation: Normalisation = "sequence"
    """What divides a token's loss: its sequence's trained tokens (then the mean over sequences), the trained tokens of
    the batch, or the longest response (then the mean over sequences)."""
    clip_low: float = Field(default=0.2, ge=0, le=1)
    """The ratio of new to old probability is clipped below 1 minus this, where the advantage is negative."""
    clip_high: float = Field(default=0.2, ge=0)
    """It is clipped above 1 plus this, where the advantage is positive."""
    delta: float | None = Field(default=None, gt=1)
    """The ratio never counts for more than this, even where the advantage is negative; null sets no bound."""
    ratio_level: Literal["token", "sequence"] = "token"
    """``sequence``: all tokens of a rollout share the geometric mean of their ratios."""
    ratio_base: Literal["proximal", "behaviour"] = "proximal"
    """What the ratio is relative to: the trainer's own weights before the first step on the batch, or what the engine
    said when it sampled."""
    correction: Correction = "token_truncate"
    """Weight for the difference between the trainer's weights before the batch and the engine that sampled (older
    weights, other kernels): of each token, or of each sequence the product over its tokens; outside the bounds it is
    set to the bound (truncate) or to zero (mask). ``none`` with ratio_base=behaviour."""
    correction_min: float | None = Field(default=None, ge=0)
    """Lower bound of the correction; null has none."""
    correction_max: float | None = Field(default=3.0, gt=0)
    """Upper bound of the correction; null has none."""
    kl_coefficient: float = Field(default=0.0, ge=0)
    """Weight of the divergence from the initial policy; 0 keeps no reference model."""
    kl_in: Literal["loss", "reward"] = "loss"
    """Where the divergence goes: to the loss of each token, or, summed over a response, off its reward."""
    kl_estimator: Literal["k1", "k2", "k3"] = "k3"
    """k1: the difference of log-probabilities (without a gradient of use in the loss); k2: half its square; k3:
    unbiased and never negative."""
    kl_weighted: bool = False
    """Multiply the divergence by the ratio before clipping, which makes the gradient of k3 unbiased; only in the
    loss."""
    overlong_penalty: float = Field(default=0.0, ge=0)
    """Taken off the reward of a response as long as allowed (DAPO, equation 13); 0 takes nothing."""
    overlong_window: int | None = Field(default=None, ge=1)
    """Tokens before the longest response from which on the penalty grows; null is a fifth of it."""
    mask_truncated: bool = False
    """Train on no token of a response that was cut off (DAPO's overlong filtering). Its reward still counts for the
    baseline."""
    dynamic_sampling: bool = False
    """Drop groups whose rewards are all equal and fill the batch with others (DAPO, section 3.2)."""

    @model_validator(mode="before")
    @classmethod
    def _from_preset(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        preset = given.get("preset", cls.model_fields["preset"].default)
        return {**PRESETS.get(preset, {}), **given} if isinstance(preset, str) else given

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.overlong_window is not None and not self.overlong_penalty:
            raise ValueError("overlong_window has no effect without overlong_penalty")
        if self.kl_in == "reward" and self.kl_weighted:
            raise ValueError("kl_weighted is for kl_in=loss: a reward has no ratio")
        self.policy_loss()
        return self

    @property
    def needs_reference(self) -> bool:
        """Whether batches need reference log-probabilities."""
        return self.kl_coefficient > 0

    def policy_loss(self, temperature: float = 1.0) -> PolicyLoss:
        """The loss of the trainer.

        Args:
            temperature: At which tokens are sampled.
        """
        shared = PolicyLoss.model_fields.keys() & type(self).model_fields.keys()
        fields = {name: getattr(self, name) for name in shared}
        if self.kl_in == "reward":
            fields["kl_coefficient"] = 0.0
        return PolicyLoss(**fields, temperature=temperature)
