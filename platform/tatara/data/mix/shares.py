"""How many tokens each source contributes: pure arithmetic."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tatara.errors import DataError


@dataclass(frozen=True)
class Wanted:
    """What is asked of one source.

    Attributes:
        name: Its name.
        tokens: Tokens that it has.
        weight: Its weight; its tokens where no weights are given.
        cap: Tokens that it may contribute, repetitions counted.
        reason: What the cap comes from, in words.
    """

    name: str
    tokens: int
    weight: float
    cap: float
    reason: str


def shares(sources: Sequence[Wanted], target: int | None, strict: bool) -> tuple[NDArray[np.float64], list[str]]:
    """Tokens of each source.

    Args:
        sources: The sources.
        target: Tokens of the mixture; as many as all weights allow if it is not given.
        strict: Whether a weight that cannot be met is an error.

    Returns:
        Tokens of each source, repetitions counted: ``[sources]``; and a line for each weight that is not met.

    Raises:
        DataError: A weight cannot be met and ``strict`` is set, or nothing is left.
    """
    weights = np.array([source.weight for source in sources], np.float64)
    caps = np.array([source.cap for source in sources], np.float64)
    notes = [
        f"{source.name}: weight {source.weight:g}, but there is no document of it"
        for source in sources
        if source.weight > 0 and source.tokens == 0
    ]
    open_ = (weights > 0) & (caps > 0)
    if not open_.any():
        raise DataError("mix: no source with a weight has any documents; check the patterns in mix.sources")
    full = weights / weights.sum()
    weights = np.where(open_, weights, 0.0)
    weights /= weights.sum()
    granted = np.zeros(len(sources))
    if target is None:
        granted = weights * (caps[open_] / weights[open_]).min()
    else:
        left = float(target)
        # At least one source is settled in each round.
        while open_.any() and left > 0:
            offer = left * weights / weights[open_].sum()
            over = open_ & (offer >= caps)
            if not over.any():
                granted[open_] = offer[open_]
                break
            granted[over] = caps[over]
            left -= float(caps[over].sum())
            open_ &= ~over
        for i, source in enumerate(sources):
            asked = full[i] * target
            if source.tokens and granted[i] < asked * (1 - 1e-9):
                notes.append(
                    f"{source.name}: {asked:,.0f} of {target:,} tokens are asked for, {granted[i]:,.0f} are what "
                    f"{source.reason} allows"
                )
    if notes and strict:
        raise DataError(
            f"mix: {notes[0]}: lower its weight or target_tokens, raise max_epochs, or set unmet: renormalise"
        )
    return granted, notes
