"""What a rollout worker is told."""

from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class RolloutTask:
    """Everything a rollout worker needs to know; plain values, so that it travels."""

    name: str
    """Of the worker, unique among all that ever were in the run's cluster."""
    buffer: str
    """Name of the buffer's actor."""
    model: str
    """Directory of the model that it starts from."""
    engine: dict[str, Any] = field(default_factory=dict)
    """Literals of an `EngineConfig`."""
    version: int = 0
    """Version of the policy in the directory."""
    concurrent: int = 64
    """Rollouts in progress at most."""
    in_flight: Literal["continue", "recompute", "drain"] = "continue"
    """What rollouts in progress do when new weights come; "drain": they end first, and nothing new begins meanwhile."""
    environments: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Literals of the environments by name."""
    environment_seconds: float = 300.0
    """Longest time that an environment may take for an answer."""
    sync_seconds: float = 300.0
    """Longest time that fetching weights may take."""
    patience: float = 120.0
    """Longest time that the buffer may take to answer, its restart included, in seconds."""
    sleep: bool = False
    """Free the engine's memory while there is nothing to generate."""
    cuda: bool = False
    """Whether the engine runs on GPUs."""
    seed: int | None = None
    """Makes every rollout repeatable, at some cost; None draws from the engine's generator."""
