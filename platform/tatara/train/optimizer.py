"""Settings of the optimizer."""

from pydantic import Field

from tatara.config import Config


class AdamSettings(Config):
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019) and a bound on the global gradient norm."""

    learning_rate: float = Field(default=3e-3, gt=0)
    """Peak learning rate; the schedule scales it."""
    beta1: float = Field(default=0.9, ge=0, lt=1)
    """Decay of the first moment."""
    beta2: float = Field(default=0.95, ge=0, lt=1)
    """Decay of the second moment."""
    epsilon: float = Field(default=1e-8, gt=0)
    """Added to the root of the second moment."""
    weight_decay: float = Field(default=0.1, ge=0)
    """Decoupled weight decay of matrices; norms have none."""
    clip_norm: float = Field(default=1.0, ge=0)
    """Largest global gradient norm; 0 turns clipping off."""
