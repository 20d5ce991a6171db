"""A reward of one's own, as a user would write it."""

from tatara.rl.rewards.completion import Completion


def low_tokens(completion: Completion) -> float:
    """Share of the response's tokens with a number below 250."""
    ids = completion.response_ids
    return sum(token < 250 for token in ids) / len(ids) if ids else 0.0


def broken(completion: Completion) -> float:
    """A reward with a mistake in it."""
    raise ValueError("no such luck")
