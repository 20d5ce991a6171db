"""What is configured of rewards: a mapping of names to rewards, and what happens when one fails."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PlainSerializer

from tatara.config import Config, operational
from tatara.rl.rewards.kinds import KINDS, RewardConfig
from tatara.rl.rewards.named import read_named

EXAMPLE = "{correct: {kind: math}}"


class ScoringConfig(Config):
    """How rewards are computed, and what becomes of a rollout whose reward failed."""

    on_error: Literal["skip", "zero", "fail"] = "skip"
    """``skip``: the rollout is not trained on; ``zero``: the failed reward counts as 0; ``fail``: the run ends."""
    max_error_share: float = Field(default=0.2, ge=0, le=1)
    """The run ends when more of a reward's last ``error_window`` values than this share of them were failures; 0 ends
    it with the first, 1 never."""
    error_window: int = Field(default=100, ge=1)
    """Values of each reward that are looked at, per reward worker."""
    processes: int = operational(1, ge=1)
    """Processes per reward worker in which rules and user functions run."""
    process_memory_bytes: int = operational(4 << 30, ge=256 << 20)
    """Memory that one of these processes may allocate, in bytes."""
    batch: int = operational(64, ge=1)
    """Rollouts that a reward worker holds at a time."""
    parallel: int = operational(16, ge=1)
    """Sandboxes (``code``) that a reward worker runs at a time."""
    start_seconds: float = operational(120.0, gt=0)
    """Time within which a process must have imported what its rewards need, in seconds."""
    buffer_seconds: float = operational(600.0, gt=0)
    """How long a reward worker waits for a buffer that does not answer (it may be restarting), in seconds."""


def read_rewards(value: Any) -> Any:
    """Build the rewards from a mapping of names to ``{kind: ..., ...}``.

    Raises:
        ValueError: One line that names the reward, the key and the nearest right one.
    """
    built = read_named(value, KINDS, RewardConfig, "reward", EXAMPLE)
    if not built:
        raise ValueError(f"there is no reward; give one, such as {EXAMPLE}")
    if all(reward.weight == 0 for reward in built.values()):
        raise ValueError("every reward has the weight 0, so that nothing could be learned")
    return built


def _dump(rewards: Mapping[str, RewardConfig]) -> dict[str, Any]:
    return {name: reward.dump() for name, reward in rewards.items()}


Rewards = Annotated[dict[str, RewardConfig], BeforeValidator(read_rewards), PlainSerializer(_dump)]
"""Type of a field ``rewards: {name: {kind: ..., weight: ..., ...}}``."""
