"""From rewards to advantages: pure functions of float64 arrays."""

from typing import Literal

import numpy as np
import numpy.typing as npt

from tatara.errors import DataError

Float64 = npt.NDArray[np.float64]

_EPSILON = 1e-4
"""Added to the standard deviation, as TRL does: rewards that nearly agree are no signal to blow up."""


def advantages(
    rewards: npt.ArrayLike,
    *,
    baseline: Literal["group_mean", "leave_one_out"] = "group_mean",
    scale_by_deviation: bool = True,
) -> Float64:
    """How much better than its group each response is.

    Args:
        rewards: ``[groups, n]``.
        baseline: The mean of the group (GRPO, arXiv:2402.03300 section 4.1.2), or of the others in it (RLOO,
            arXiv:2402.14740 section 3.2).
        scale_by_deviation: Divide by the group's standard deviation (that of a sample, n - 1) plus 1e-4.

    Returns:
        ``[groups, n]``; exactly 0 where all rewards of a group are equal.

    Raises:
        DataError: A reward is not a finite number, or a group has a single response.
    """
    values = _checked(rewards)
    n = values.shape[1]
    centred = values - values.mean(1, keepdims=True)
    # Rounding of the mean would leave a little, and dividing by the deviation would make it a signal.
    centred[equal_groups(values)] = 0.0
    result = centred * (n / (n - 1)) if baseline == "leave_one_out" else centred
    if scale_by_deviation:
        deviation = np.sqrt((centred**2).sum(1, keepdims=True) / (n - 1))
        result = result / (deviation + _EPSILON)
    return result


def equal_groups(rewards: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    """Which groups ``[groups]`` of rewards ``[groups, n]`` are all equal: they say nothing about what is better.

    Raises:
        DataError: See `advantages`.
    """
    values = _checked(rewards)
    result: npt.NDArray[np.bool_] = (values == values[:, :1]).all(1)
    return result


def overlong_penalties(lengths: npt.ArrayLike, longest: int, window: int, penalty: float) -> Float64:
    """What is added to the reward of a response for its length (DAPO, arXiv:2503.14476, equation 13).

    Nothing up to ``longest - window`` tokens, from there down in a straight line to ``-penalty`` at ``longest``.

    Args:
        lengths: Tokens of each response.
        longest: Tokens that a response may have.
        window: Tokens over which the penalty grows.
        penalty: The largest one.

    Raises:
        DataError: The window is longer than a response may be.
    """
    if not 0 < window <= longest:
        raise DataError(f"overlong_window {window} must be from 1 to the longest response, {longest} tokens")
    over = np.asarray(lengths, np.float64) - (longest - window)
    return -penalty * np.clip(over / window, 0.0, 1.0)


def _checked(rewards: npt.ArrayLike) -> Float64:
    values = np.asarray(rewards, np.float64)
    if values.ndim != 2:
        raise DataError(f"rewards must be [groups, n], but have the shape {values.shape}")
    if values.shape[1] < 2:
        raise DataError(f"a group needs at least 2 responses to compare, but has {values.shape[1]}")
    if not np.isfinite(values).all():
        group, index = np.argwhere(~np.isfinite(values))[0]
        raise DataError(f"the reward of response {index} of group {group} is {values[group, index]}, not a number")
    return values
