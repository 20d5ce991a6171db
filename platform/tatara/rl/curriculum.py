"""Stages of a run: which prompts, how long the responses, how many of them, drawn how."""

import itertools
from collections.abc import Sequence

from pydantic import Field, model_validator

from tatara.config import Config
from tatara.errors import ConfigError
from tatara.rl.staleness import BatchSizes


class Replay(Config):
    """Prompts that were too hard come back."""

    below: float = Field(0.0, ge=0.0, le=1.0)
    """A prompt comes back when less than this share of its rollouts passed; 0 is never."""
    times: int = Field(1, ge=1)
    """How often it comes back at most."""
    delay: int = Field(64, ge=1)
    """Positions between the outcome and the next attempt; about a few batches, so that the policy has changed."""


class DynamicSampling(Config):
    """Groups that teach nothing are not trained on (DAPO: Yu et al., 2025, section 3.2)."""

    enabled: bool = False
    """Drop groups whose rewards are all equal, and start others in their place."""
    tolerance: float = Field(1e-8, ge=0.0)
    """Rewards that differ by no more than this are equal."""
    most_in_a_row: int = Field(256, ge=1)
    """Groups dropped one after the other, with none kept between, after which the run stops."""


class Difficulty(Config):
    """Share of an earlier round's attempts that passed, as measured in the prompt's metadata."""

    field: str = "pass_rate"
    """Key of the metadata that holds it, from 0 to 1."""
    minimum: float = Field(0.0, ge=0.0, le=1.0)
    """Prompts below are skipped: too hard to learn from."""
    maximum: float = Field(1.0, ge=0.0, le=1.0)
    """Prompts above are skipped: known already."""

    @model_validator(mode="after")
    def _check(self) -> "Difficulty":
        if self.minimum > self.maximum:
            raise ValueError(f"no pass rate lies between minimum {self.minimum} and maximum {self.maximum}")
        return self


class CurriculumStage(Config):
    """One stretch of rollout batches with the same settings."""

    name: str
    """For reports and errors."""
    until_batch: int | None = Field(None, ge=1)
    """The batch after its last one, counted from the start of the run; only the last stage may leave it out."""
    prompts: dict[str, float] = Field(min_length=1)
    """Weight of each dataset, by name."""
    groups_per_batch: int = Field(ge=1)
    """Prompts in a rollout batch."""
    group_size: int = Field(ge=1)
    """Rollouts of a prompt."""
    max_response_tokens: int = Field(ge=1)
    """Tokens of a response at most, those of an environment included."""
    max_prompt_tokens: int | None = Field(None, ge=1)
    """Tokens of a prompt at most; None is no limit but the context."""
    drop_long_prompts: bool = False
    """Leave longer prompts out and count them; otherwise the first one stops the run before it starts."""
    temperature: float = Field(1.0, gt=0.0)
    """Of sampling."""
    top_p: float = Field(1.0, gt=0.0, le=1.0)
    """Most likely tokens that together have this probability; 1 is all. Below 1 trains on another distribution."""
    top_k: int = Field(0, ge=0)
    """Most likely tokens to draw from; 0 is all."""
    environment: str | None = None
    """Name of a configured environment; none is a single turn."""
    difficulty: Difficulty | None = None
    """Prompts to take by pass rate; none is all."""
    replay: Replay = Replay()
    """Prompts that come back."""
    dynamic_sampling: DynamicSampling = DynamicSampling()
    """What happens to groups without a signal."""

    @model_validator(mode="after")
    def _check(self) -> "CurriculumStage":
        wrong = [name for name, weight in self.prompts.items() if not weight > 0 or weight == float("inf")]
        if wrong:
            raise ValueError(f"the weight of prompts '{wrong[0]}' must be above 0; leave the dataset out instead")
        if self.dynamic_sampling.enabled and self.group_size < 2:
            raise ValueError("dynamic_sampling compares the rewards of a group: it needs a group_size of at least 2")
        return self


class Passing(Config):
    """When a rollout counts as solved: for pass@k, pass rates and replay, never for training."""

    part: str | None = None
    """The reward whose own value decides whether a rollout counts as solved; null is the weighted sum."""
    at_least: float = 1.0
    """The value from which on it does."""


class HeldOut(Config):
    """How held-out prompts are answered at an evaluation."""

    samples: int = Field(1, ge=1)
    """Responses to each prompt."""
    k: tuple[int, ...] = (1,)
    """For which k to report pass@k; at most ``samples``."""
    max_response_tokens: int = Field(ge=1)
    """Tokens of a response at most."""
    temperature: float = Field(1.0, ge=0.0)
    """Of sampling; 0 takes the most likely token."""
    top_p: float = Field(1.0, gt=0.0, le=1.0)
    """Draw from the most likely tokens that together have this probability; 1 is all."""
    top_k: int = Field(0, ge=0)
    """Draw from so many of the most likely tokens; 0 is all."""
    environment: str | None = None
    """Name of a configured environment; null is a single turn."""

    @model_validator(mode="after")
    def _check(self) -> "HeldOut":
        if not self.k or min(self.k) < 1 or max(self.k) > self.samples:
            raise ValueError(f"pass@k needs 1 <= k <= samples ({self.samples}), got k: {list(self.k)}")
        return self


def batch_sizes(stages: Sequence[CurriculumStage], batches: int | None) -> BatchSizes:
    """Groups in each batch of a run.

    Args:
        stages: In their order.
        batches: Of the run; None is open.

    Raises:
        ConfigError: The stages do not follow each other, or the run ends before the last one begins.
    """
    if not stages:
        raise ConfigError("the curriculum has no stage: give at least one")
    starts = [0]
    for stage, after in itertools.pairwise(stages):
        if stage.until_batch is None:
            raise ConfigError(
                f"stage '{stage.name}' never ends, so stage '{after.name}' never begins: "
                f"give '{stage.name}' an until_batch"
            )
        if stage.until_batch <= starts[-1]:
            raise ConfigError(
                f"stage '{stage.name}' ends at batch {stage.until_batch}, but begins at {starts[-1]}: "
                "until_batch must ascend"
            )
        starts.append(stage.until_batch)
    last = stages[-1]
    ends = [end for end in (last.until_batch, batches) if end is not None]
    if last.until_batch is not None and batches is not None and last.until_batch < batches:
        raise ConfigError(
            f"the last stage '{last.name}' ends at batch {last.until_batch}, but the run has {batches}: "
            "leave its until_batch out"
        )
    end = min(ends, default=None)
    if end is not None and end <= starts[-1]:
        raise ConfigError(f"the run has {end} batches, but stage '{last.name}' begins at batch {starts[-1]}")
    return BatchSizes(tuple(starts), tuple(stage.groups_per_batch for stage in stages), end)
