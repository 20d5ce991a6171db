"""What the rewards of a group say: shaped for length, compared within the group."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tatara.errors import DataError
from tatara.rl.advantages import advantages, equal_groups, overlong_penalties
from tatara.rl.algorithm import AlgorithmConfig
from tatara.rl.record import ScoredGroup

Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Signal:
    """What a group teaches."""

    advantages: Float64
    """Of each rollout; 0 for one that could not be scored."""
    scored: npt.NDArray[np.bool_]
    """Which rollouts could be scored; the others count for nothing."""
    equal: bool
    """Whether nothing is better than anything else: all rewards are equal, or fewer than two could be scored."""


def group_signal(group: ScoredGroup, algorithm: AlgorithmConfig, penalties: npt.ArrayLike = 0.0) -> Signal:
    """Compare the rollouts of a group.

    Args:
        group: With all its rollouts.
        algorithm: Says how.
        penalties: Taken off each reward, beside that for length: ``[n]``, or one for all.

    Raises:
        DataError: A reward is not a finite number, or the group has a single rollout.
    """
    n = len(group.rollouts)
    if n < 2:
        raise DataError(f"prompt {group.prompt.id} has {n} response, but a group needs at least 2 to compare")
    scored = np.array([not score.errors for score in group.scores])
    rewards = shaped_rewards(group, algorithm) - np.asarray(penalties, np.float64)
    if not np.isfinite(rewards[scored]).all():
        index = int(np.flatnonzero(scored & ~np.isfinite(rewards))[0])
        raise DataError(f"the reward of response {index} to prompt {group.prompt.id} is {rewards[index]}, not a number")
    result = np.zeros(n)
    if scored.sum() < 2:
        return Signal(result, scored, equal=True)
    of_scored = rewards[scored][None]
    result[scored] = advantages(
        of_scored, baseline=algorithm.advantage, scale_by_deviation=algorithm.scale_by_deviation
    )[0]
    return Signal(result, scored, equal=bool(equal_groups(of_scored)[0]))


def has_signal(group: ScoredGroup, algorithm: AlgorithmConfig) -> bool:
    """Whether dynamic sampling keeps a group; see `group_signal`."""
    return not group_signal(group, algorithm).equal


def shaped_rewards(group: ScoredGroup, algorithm: AlgorithmConfig) -> Float64:
    """The rewards of a group, less what an overlong response costs: ``[n]``."""
    rewards = np.array(group.rewards, np.float64)
    if not algorithm.overlong_penalty:
        return rewards
    penalties = [_penalty(len(each.response_ids), each.sampling.max_tokens, algorithm) for each in group.rollouts]
    return rewards + np.array(penalties)


def _penalty(length: int, longest: int, algorithm: AlgorithmConfig) -> float:
    window = algorithm.overlong_window or max(1, longest // 5)
    return float(overlong_penalties([length], longest, window, algorithm.overlong_penalty)[0])


def longest_response(groups: Sequence[ScoredGroup]) -> int:
    """Tokens that a response of these groups may have."""
    return max((rollout.sampling.max_tokens for group in groups for rollout in group.rollouts), default=1)
