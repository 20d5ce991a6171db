"""Settings of the optimizer, and what they mean for each parameter."""

import fnmatch
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from pydantic import Field, model_validator

from tatara.config import Config, nearest
from tatara.errors import ConfigError

_NO_DECAY = ("*norm.weight", "*norm_weight", "*.bias")


class AdamSettings(Config):
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019) and a bound on the global gradient norm.

    Published: the defaults are the betas, epsilon, weight decay and bound of OLMo 2 (arXiv:2501.00656). Llama 3 trains
    with AdamW too, in its scaling experiments with a decay of 0.1 times the rate of the step (arXiv:2407.21783, section
    3.2.1), which is what ``weight_decay`` 0.1 does here; its 405B has a peak learning rate of 8e-5 (section 3.4).

    Patterns are those of a shell (``*``, ``?``, ``[...]``) on the names of parameters in the whole model, such as
    ``decoder.layers.3.mlp.linear_fc1.weight``.
    """

    learning_rate: float = Field(default=3e-3, gt=0)
    """Peak learning rate; the schedule scales it."""
    beta1: float = Field(default=0.9, ge=0, lt=1)
    """Decay of the first moment."""
    beta2: float = Field(default=0.95, ge=0, lt=1)
    """Decay of the second moment."""
    epsilon: float = Field(default=1e-8, gt=0)
    """Added to the root of the second moment."""
    weight_decay: float = Field(default=0.1, ge=0)
    """Share of a weight that a step takes away, times the learning rate."""
    decoupled: bool = True
    """Whether weight decay stays out of the moments (AdamW); else it is added to the gradient (Adam with L2)."""
    weight_decay_schedule: Literal["constant", "linear", "cosine"] = "constant"
    """How weight decay goes to weight_decay_end over the run."""
    weight_decay_end: float | None = Field(default=None, ge=0)
    """Weight decay of the last step; only where its schedule is not constant."""
    clip_norm: float = Field(default=1.0, ge=0)
    """Largest global gradient norm; 0 turns clipping off."""
    no_decay: tuple[str, ...] = _NO_DECAY
    """Parameters without weight decay: norms and biases. OLMo 2 adds ``embedding.*``."""
    learning_rate_multipliers: dict[str, float] = Field({})
    """Pattern to what it multiplies the learning rate of its parameters by; several that match multiply."""
    freeze: tuple[str, ...] = ()
    """Parameters that are not trained."""

    @model_validator(mode="after")
    def _check(self) -> "AdamSettings":
        if (self.weight_decay_schedule == "constant") != (self.weight_decay_end is None):
            raise ValueError("weight_decay_end and a weight_decay_schedule that is not constant belong together")
        for pattern, multiplier in self.learning_rate_multipliers.items():
            if not 0 < multiplier < math.inf:
                raise ValueError(
                    f"learning_rate_multipliers.{pattern} is {multiplier}: give a number above 0, or freeze the pattern"
                )
        return self


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters that are treated alike.

    Attributes:
        names: In the order of the model.
        frozen: Whether they are left as they are.
        weight_decay: Whether they have weight decay.
        multiplier: What their learning rate is multiplied by.
    """

    names: tuple[str, ...]
    frozen: bool
    weight_decay: bool
    multiplier: float


def parameter_groups(names: Iterable[str], settings: AdamSettings) -> tuple[ParameterGroup, ...]:
    """Group a model's parameters by how they are treated.

    Args:
        names: Of all parameters of the whole model, not only of one rank's part: the groups, and what is refused,
            must be the same on every rank.
        settings: What is said about patterns.

    Returns:
        Groups in the order of their first parameter; all frozen parameters are one.

    Raises:
        ConfigError: A pattern matches no parameter, or nothing is left to train.
    """
    names = list(names)
    _check_patterns(names, settings)
    found: dict[tuple[bool, bool, float], list[str]] = {}
    for name in names:
        found.setdefault(treatment(name, settings), []).append(name)
    if all(frozen for frozen, _, _ in found):
        raise ConfigError(f"optimizer.freeze={list(settings.freeze)} freezes every parameter: nothing is left to train")
    return tuple(ParameterGroup(tuple(group), *key) for key, group in found.items())


def treatment(name: str, settings: AdamSettings) -> tuple[bool, bool, float]:
    """Whether a parameter is frozen, whether it has weight decay, and what multiplies its learning rate."""
    if _matches(name, settings.freeze):
        return True, False, 1.0
    multipliers = [m for pattern, m in settings.learning_rate_multipliers.items() if fnmatch.fnmatchcase(name, pattern)]
    return False, not _matches(name, settings.no_decay), math.prod(sorted(multipliers))


def weight_decay(settings: AdamSettings, step: int, total_steps: int) -> float:
    """Weight decay of one step.

    Args:
        settings: Where it begins and ends.
        step: Training step, counted from 0.
        total_steps: Length of the run; later steps stay at the end.
    """
    if settings.weight_decay_end is None:
        return settings.weight_decay
    progress = min(1.0, step / max(1, total_steps - 1))
    if settings.weight_decay_schedule == "cosine":
        progress = 0.5 * (1.0 - math.cos(math.pi * progress))
    return settings.weight_decay + (settings.weight_decay_end - settings.weight_decay) * progress


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _check_patterns(names: list[str], settings: AdamSettings) -> None:
    """Refuse a pattern of the user's that matches nothing; the usual ones may, in a model without biases."""
    given = [("no_decay", pattern) for pattern in settings.no_decay if pattern not in _NO_DECAY]
    given += [("learning_rate_multipliers", pattern) for pattern in settings.learning_rate_multipliers]
    given += [("freeze", pattern) for pattern in settings.freeze]
    for field, pattern in given:
        if not any(fnmatch.fnmatchcase(name, pattern) for name in names):
            raise ConfigError(f"optimizer.{field}: no parameter is called {pattern}; {nearest(pattern, names[:12])}")
