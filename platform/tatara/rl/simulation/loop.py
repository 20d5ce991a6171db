"""What the model of the loop is told: response lengths, how fast an engine and the learner are, what a sync costs."""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from tatara.errors import ConfigError

InFlight = Literal["continue", "recompute", "drain"]
"""As in the settings of a run; recomputing is continuing after a longer ``load``."""


@dataclass(frozen=True)
class Lengths:
    """Tokens of responses: lognormal, cut at the longest allowed; or drawn from recorded ones.

    Attributes:
        mean: Of the distribution before it is cut, tokens.
        spread: Standard deviation over mean; 0 makes all equal.
        longest: Where generation stops, tokens.
        recorded: Lengths of real rollouts; where given, these are drawn with repetition and nothing else counts.
    """

    mean: float = 1.0
    spread: float = 0.0
    longest: int = 2**31
    recorded: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.mean <= 0 or self.spread < 0 or self.longest < 1:
            raise ConfigError(
                f"lengths need mean > 0, spread >= 0 and longest >= 1, not {self.mean}, {self.spread}, {self.longest}"
            )
        if self.recorded and min(self.recorded) < 1:
            raise ConfigError(f"recorded lengths are at least one token, not {min(self.recorded)}")

    def draw(self, random_numbers: random.Random, count: int) -> list[int]:
        """That many lengths in tokens, at least 1 each."""
        if self.recorded:
            return random_numbers.choices(self.recorded, k=count)
        variance = math.log1p(self.spread**2)
        middle, sigma = math.log(self.mean) - variance / 2, math.sqrt(variance)
        if sigma == 0:
            return [max(1, min(self.longest, round(self.mean)))] * count
        draw = random_numbers.lognormvariate
        return [max(1, min(self.longest, round(draw(middle, sigma)))) for _ in range(count)]


class Drawn:
    """Lengths of the groups of a loop by their number: the same for every loop that draws them alike."""

    def __init__(self, lengths: Lengths, size: int, seed: int) -> None:
        """Draw none yet."""
        self._lengths, self._size, self._random = lengths, size, random.Random(seed)
        self._groups: list[list[int]] = []

    def of(self, group: int) -> list[int]:
        """Lengths of a group, in tokens; not to be changed."""
        while len(self._groups) <= group:
            self._groups.append(self._lengths.draw(self._random, self._size))
        return self._groups[group]


@lru_cache(maxsize=4)
def drawn(lengths: Lengths, size: int, seed: int) -> Drawn:
    """Groups of so many responses each; drawn once, though a sweep simulates hundreds of loops."""
    return Drawn(lengths, size, seed)


@dataclass(frozen=True)
class EngineCurve:
    """Seconds of an engine's step over how many responses it continues: ``start + each x running``.

    The first part is what a step costs however many share it (weights read, kernels launched), the second what each
    response adds (its cache read, its arithmetic). Tokens/s are ``running / (start + each x running)``.
    """

    start: float
    each: float

    def __post_init__(self) -> None:
        if self.start < 0 or self.each < 0 or self.start + self.each <= 0:
            raise ConfigError(f"an engine's step takes time: start {self.start:.3g} s, each {self.each:.3g} s")

    def step(self, running: float) -> float:
        """Seconds in which each of so many responses grows by one token."""
        return self.start + self.each * running

    def tokens_per_second(self, running: float) -> float:
        """Of all responses together."""
        return running / self.step(running)


def fit_engine(points: Sequence[tuple[float, float]], seconds: Sequence[float] | None = None) -> EngineCurve:
    """The curve through measured (responses at a time, tokens/s).

    Weighted least squares on the seconds of a step, each relative to its own, so that the small ones count as much;
    a negative part becomes 0 and the other is fitted alone.

    Args:
        points: As measured.
        seconds: That each was measured, which weighs it; None: all alike.

    Raises:
        ConfigError: There is no point, or one is not positive.
    """
    if not points or any(running <= 0 or rate <= 0 for running, rate in points):
        raise ConfigError("an engine's speed needs measured points of positive concurrency and tokens_per_second")
    steps = [(running, running / rate) for running, rate in points]
    weights = [share / each**2 for (_, each), share in zip(steps, seconds or [1.0] * len(steps), strict=True)]
    total = sum(weights)
    mean_n = sum(w * n for w, (n, _) in zip(weights, steps, strict=True)) / total
    mean_s = sum(w * s for w, (_, s) in zip(weights, steps, strict=True)) / total
    spread = sum(w * (n - mean_n) ** 2 for w, (n, _) in zip(weights, steps, strict=True))
    if spread <= 1e-12 * total * mean_n**2:
        # One concurrency says nothing of the slope: in proportion, so that the speed is the same at any.
        return EngineCurve(0.0, mean_s / mean_n)
    slope = sum(w * (n - mean_n) * (s - mean_s) for w, (n, s) in zip(weights, steps, strict=True)) / spread
    if slope < 0:
        return EngineCurve(mean_s, 0.0)
    if mean_s - slope * mean_n < 0:
        squares = sum(w * n * n for w, (n, _) in zip(weights, steps, strict=True))
        return EngineCurve(0.0, sum(w * n * s for w, (n, s) in zip(weights, steps, strict=True)) / squares)
    return EngineCurve(mean_s - slope * mean_n, slope)


_NARROW = 0.1
"""Sizes of batches that deviate less than this share from their mean: what their times deviate is noise."""


@dataclass(frozen=True)
class LearnerCurve:
    """Seconds that training on a batch takes: ``fixed + per_token x tokens``, prompts counted with responses."""

    fixed: float
    per_token: float

    def seconds(self, tokens: float) -> float:
        """Of a batch of so many tokens."""
        return self.fixed + self.per_token * tokens


def fit_learner(points: Sequence[tuple[float, float]]) -> LearnerCurve:
    """The line through measured (tokens of a batch, seconds); where they say nothing of a slope, in proportion.

    Raises:
        ConfigError: There is no point.
    """
    if not points:
        raise ConfigError("the learner's speed needs at least one measured batch: tokens and seconds")
    count = len(points)
    mean_x, mean_y = sum(x for x, _ in points) / count, sum(y for _, y in points) / count
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    if spread < count * (_NARROW * mean_x) ** 2:
        return LearnerCurve(0.0, mean_y / mean_x)
    slope = sum((x - mean_x) * (y - mean_y) for x, y in points) / spread
    if slope <= 0:
        return LearnerCurve(mean_y, 0.0)
    if mean_y - slope * mean_x < 0:
        return LearnerCurve(0.0, mean_y / mean_x)
    return LearnerCurve(mean_y - slope * mean_x, slope)


@dataclass(frozen=True)
class Loop:
    """A loop to simulate. Times are seconds.

    Attributes:
        engines: Rollout workers, one engine each.
        concurrency: Responses that an engine generates at a time, at most.
        engine: How fast each is.
        lengths: Tokens of responses.
        groups_per_batch: Prompts in a rollout batch.
        group_size: Rollouts of a prompt.
        staleness: Updates that may come between a rollout's start and the update it is trained in.
        learner: How long it trains on a batch.
        publish: Seconds that the learner gives out new weights and does nothing else.
        load: Seconds that an engine pauses to take them.
        in_flight: Whether responses go on over an update, or the engine starts nothing new until they are done.
        fetch: Seconds before that, in which they are on their way and the engine goes on.
        lease: Seconds after it until the groups that it may start are there.
        reward: Seconds to score a rollout.
        reward_workers: That score at a time; None: as many as there is to score.
        handout: Seconds that a batch takes from the buffer to the learner, which waits.
        prompt_tokens: Of each prompt; the learner computes them too.
        dropped: Share of groups that carry no signal and are replaced.
        rollout_devices: Of all engines; only weighs the shares.
        learner_devices: Likewise.
        colocated: The learner's devices are the engines', which stop while it trains and publishes.
        cores: Where learner and engines share a processor: how many of them it carries at full speed. When more work at
            a time, each is slowed down in proportion. None: they do not slow each other down.
    """

    engines: int
    concurrency: int
    engine: EngineCurve
    lengths: Lengths
    groups_per_batch: int
    group_size: int
    staleness: int
    learner: LearnerCurve
    publish: float = 0.0
    load: float = 0.0
    fetch: float = 0.0
    lease: float = 0.0
    in_flight: InFlight = "continue"
    reward: float = 0.0
    reward_workers: int | None = None
    handout: float = 0.0
    prompt_tokens: float = 0.0
    dropped: float = 0.0
    rollout_devices: float = 1.0
    learner_devices: float = 1.0
    colocated: bool = False
    cores: float | None = None

    def __post_init__(self) -> None:
        for name in ("engines", "concurrency", "groups_per_batch", "group_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("staleness", "publish", "load", "fetch", "lease", "reward", "handout", "prompt_tokens"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} must not be negative: {getattr(self, name)}")
        if self.reward_workers is not None and self.reward_workers < 1:
            raise ConfigError(f"reward_workers must be at least 1, not {self.reward_workers}")
        if not 0 <= self.dropped < 1:
            raise ConfigError(f"dropped is a share of groups below 1, not {self.dropped}")
        if self.cores is not None and self.cores <= 0:
            raise ConfigError(f"cores must be above 0, not {self.cores}")

    def speed(self, working: float) -> float:
        """Of each, where so many of learner and engines work at a time, over its own when it works alone."""
        return speed(working, self.cores)


def speed(working: float, cores: float | None) -> float:
    """Of each of some processes that share cores, over its own when it has all of them."""
    return 1.0 if cores is None or working <= cores else cores / working
