"""What travels between rollout workers, reward workers, buffer and learner: token ids and what is known of them."""

from dataclasses import dataclass, field
from typing import Any, Literal

Purpose = Literal["train", "evaluate"]
Finish = Literal["stop", "length", "turns", "environment"]


@dataclass(frozen=True, order=True)
class RolloutKey:
    """Names one rollout of a run for ever; a repeated attempt has the same key."""

    purpose: Purpose
    round: int
    """Of an evaluation: the policy version it was asked for. 0 in training."""
    position: int
    """Place of the prompt in the order of the run, counted from 0; of an evaluation, the number of the prompt."""
    index: int
    """Number within the group, from 0."""


@dataclass(frozen=True)
class Sampling:
    """How the tokens of a rollout are drawn."""

    max_tokens: int
    """Tokens of the response at most, those of an environment included."""
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    """Most likely tokens to draw from; 0 is all."""
    stop_token_ids: tuple[int, ...] = ()
    """Tokens that end the model's turn; the token is part of the response."""


@dataclass(frozen=True)
class Prompt:
    """What is asked, and what a reward must know of it."""

    id: str
    """The user's own."""
    source: str
    """Name of the dataset."""
    messages: tuple[dict[str, Any], ...]
    """The conversation up to the model's turn, each with ``role`` and ``content``."""
    token_ids: tuple[int, ...]
    """The same as the chat template renders it, with the header of the model's turn."""
    metadata: dict[str, Any] = field(default_factory=dict)
    """Whatever rewards and environments read: ``answer``, ``tests``, ..."""


@dataclass(frozen=True)
class GroupAssignment:
    """Rollouts of one prompt for one worker to generate."""

    purpose: Purpose
    round: int
    position: int
    indices: tuple[int, ...]
    """Which of the group; those that a dead worker left are handed out again alone."""
    prompt: Prompt
    sampling: Sampling
    environment: str | None = None
    """Name of a configured environment; none is a single turn."""

    def key(self, index: int) -> RolloutKey:
        """The key of one of them."""
        return RolloutKey(self.purpose, self.round, self.position, index)


@dataclass(frozen=True)
class Rollout:
    """One sampled response. All lists are as long as ``response_ids``."""

    key: RolloutKey
    prompt_ids: tuple[int, ...]
    response_ids: tuple[int, ...]
    """Everything after the prompt: the model's tokens (stop token included), and those that an environment answered."""
    loss_mask: tuple[int, ...]
    """1 for a token that the model sampled, 0 for one of the environment."""
    logprobs: tuple[float, ...]
    """Log-probability under the engine at the sampling temperature, in nats; 0 for tokens of the environment."""
    first_version: int
    """Version of the policy that sampled the first token."""
    last_version: int
    """Version that sampled the last one."""
    finish: Finish
    """``stop``: by itself; ``length``: cut off; ``turns``: no turn left; ``environment``: the environment ended it."""
    sampling: Sampling
    worker: str = ""
    seconds: float = 0.0
    """From its start to its end."""


@dataclass(frozen=True)
class Score:
    """What the rewards say of a rollout."""

    key: RolloutKey
    parts: dict[str, float]
    """Each reward's own value, before its weight."""
    reward: float
    """Weighted sum."""
    response: str
    """The response as text, for transcripts."""
    errors: dict[str, str] = field(default_factory=dict)
    """Rewards that failed, with one line why; such a rollout is not trained on."""


@dataclass(frozen=True)
class ScoredGroup:
    """A prompt with all rollouts of its group, ready to train on."""

    position: int
    prompt: Prompt
    rollouts: tuple[Rollout, ...]
    scores: tuple[Score, ...]

    @property
    def rewards(self) -> tuple[float, ...]:
        """Reward of each rollout."""
        return tuple(score.reward for score in self.scores)
