"""Settings of the clipped policy gradient."""

from typing import Literal, Self

from pydantic import Field, model_validator

from tatara.config import Config

Correction = Literal["none", "token_truncate", "token_mask", "sequence_truncate", "sequence_mask"]


class PolicyLoss(Config):
    """The loss of each sampled token: a clipped ratio times its advantage, plus a divergence from a reference.

    Published: the clipped ratio is that of PPO (arXiv:1707.06347, equation 7), its upper bound of its own that of DAPO
    (arXiv:2503.14476, equation 10), the bound on the ratio itself dual clipping (arXiv:1912.09729) in the form of
    INTELLECT-2 (arXiv:2505.07291, equation 1), the ratio of whole sequences GSPO (arXiv:2507.18071, equations 5 and 7),
    the estimators of the divergence those of http://joschu.net/blog/kl-approx.html, and the correction for engines that
    compute other probabilities than the trainer truncated importance sampling (https://fengyao.notion.site/off-policy-rl).
    """

    clip_low: float = Field(default=0.2, ge=0, le=1)
    """The ratio is clipped below 1 minus this, where the advantage is negative."""
    clip_high: float = Field(default=0.2, ge=0)
    """The ratio is clipped above 1 plus this, where the advantage is positive."""
    delta: float | None = Field(default=None, gt=1)
    """The ratio never counts for more than this, even where the advantage is negative; null sets no bound."""
    ratio_level: Literal["token", "sequence"] = "token"
    """``sequence``: all tokens of a rollout share the geometric mean of their ratios."""
    ratio_base: Literal["proximal", "behaviour"] = "proximal"
    """What the ratio is relative to: the trainer's own weights before the first step on the batch, or what the engine
    said when it sampled."""
    correction: Correction = "none"
    """Weight for the difference between the ratio's base and the engine that sampled: of each token, or of each
    sequence the product over its tokens; outside the bounds it is set to the bound (truncate) or to zero (mask)."""
    correction_min: float | None = Field(default=None, ge=0)
    """Lower bound of the correction; null has none."""
    correction_max: float | None = Field(default=3.0, gt=0)
    """Upper bound of the correction; null has none."""
    kl_coefficient: float = Field(default=0.0, ge=0)
    """Weight of the divergence from the reference; 0 needs no reference."""
    kl_estimator: Literal["k1", "k2", "k3"] = "k3"
    """k1: the difference of log-probabilities (without a gradient of use); k2: half its square; k3: unbiased and never
    negative."""
    kl_weighted: bool = False
    """Multiply the divergence by the ratio before clipping, which makes the gradient of k3 unbiased (DeepSeek-V3.2,
    arXiv:2512.02556, section 3.1)."""
    temperature: float = Field(default=1.0, gt=0)
    """At which tokens were sampled; the logits are divided by it."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        lower, upper = self.correction_min, self.correction_max
        if self.correction != "none" and self.ratio_base == "behaviour":
            raise ValueError("a correction needs ratio_base=proximal: otherwise nothing is left to correct")
        if lower is not None and upper is not None and lower >= upper:
            raise ValueError(f"correction_min {lower:g} must be below correction_max {upper:g}")
        if self.correction.endswith("truncate") and lower is None and upper is None:
            raise ValueError(f"correction {self.correction} needs correction_min or correction_max")
        return self
