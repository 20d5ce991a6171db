"""What scores say of a group, a batch and an evaluation."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from tatara.rl.curriculum import Passing
from tatara.rl.ledger.packing import Record, length_of
from tatara.rl.ledger.state import Group


def pass_at_k(samples: int, passed: int, k: int) -> float:
    """Probability that at least one of k responses passes, without bias (Chen et al., 2021, equation 1).

    Args:
        samples: Responses there are, at least k.
        passed: How many of them passed.
        k: Responses that one may give.
    """
    if not 1 <= k <= samples:
        raise ValueError(f"pass@{k} needs at least {k} samples, there are {samples}")
    return 1.0 - math.comb(samples - passed, k) / math.comb(samples, k)


def passes(score: Record, passing: Passing) -> bool:
    """Whether a rollout counts as solved; a score with errors does not."""
    value = score["reward"] if passing.part is None else score["parts"].get(passing.part)
    return not score["errors"] and value is not None and value >= passing.at_least


def usable(group: Group) -> list[Record]:
    """Scores without errors, by index."""
    return [group.scores[index] for index in sorted(group.scores) if not group.scores[index]["errors"]]


def pass_rate(group: Group, passing: Passing) -> float:
    """Share of the usable rollouts that passed; 0 if there is none."""
    scores = usable(group)
    return sum(passes(score, passing) for score in scores) / len(scores) if scores else 0.0


def all_equal(group: Group, tolerance: float) -> bool:
    """Whether no rollout is better than another."""
    rewards = [score["reward"] for score in usable(group)]
    return max(rewards) - min(rewards) <= tolerance


def describe_rewards(group: Group) -> str:
    """Mean of each reward of a group in one line: ``math 0, format 1``."""
    return ", ".join(f"{name} {value:.4g}" for name, value in part_means(usable(group)).items()) or "no reward"


def part_means(scores: Iterable[Record]) -> dict[str, float]:
    """Mean of each reward over the scores that have it."""
    sums: dict[str, list[float]] = {}
    for score in scores:
        for name, value in score["parts"].items():
            sums.setdefault(name, []).append(value)
    return {name: math.fsum(values) / len(values) for name, values in sorted(sums.items())}


def summarise(groups: Sequence[Group], passing: Passing) -> Record:
    """Rewards, lengths and ends of the rollouts of complete groups, as plain data."""
    rollouts = [rollout for group in groups for rollout in group.rollouts.values()]
    scores = [score for group in groups for score in usable(group)]
    lengths = np.array([length_of(rollout) for rollout in rollouts], np.float64)
    rewards = np.array([score["reward"] for score in scores], np.float64)
    finishes = Counter(rollout["finish"] for rollout in rollouts)
    return {
        "groups": len(groups),
        "rollouts": len(rollouts),
        "errors": sum(bool(score["errors"]) for group in groups for score in group.scores.values()),
        "reward": float(rewards.mean()) if len(rewards) else 0.0,
        "reward_deviation": float(rewards.std()) if len(rewards) else 0.0,
        "parts": part_means(scores),
        "passed": sum(passes(score, passing) for score in scores) / max(1, len(rollouts)),
        "tokens": int(lengths.sum()),
        "length": float(lengths.mean()),
        "longest": int(lengths.max()),
        "empty": int((lengths == 0).sum()),
        "finish": {name: finishes[name] / len(rollouts) for name in sorted(finishes)},
        "seconds": math.fsum(rollout["seconds"] for rollout in rollouts) / len(rollouts),
    }


def evaluate(version: int, groups: Sequence[Group], ks: Sequence[int], passing: Passing) -> Record:
    """What a version makes of the held-out prompts; a rollout without a reward counts as not solved."""
    counts = [sum(passes(score, passing) for score in group.scores.values()) for group in groups]
    found = {
        f"pass@{k}": math.fsum(pass_at_k(group.size, passed, k) for group, passed in zip(groups, counts, strict=True))
        / len(groups)
        for k in ks
    }
    versions = [version for group in groups for rollout in group.rollouts.values() for version in rollout["versions"]]
    return {"version": version, "versions": [min(versions), max(versions)], **found, **summarise(groups, passing)}


def pick_transcripts(groups: Sequence[Group], count: int) -> list[Record]:
    """A few rollouts with what they got: of one group after the other, in turn its best and its worst."""
    picked = []
    for place, group in enumerate(groups[:count]):
        order = sorted(group.scores, key=lambda index, group=group: (group.scores[index]["reward"], -index))  # type: ignore[misc]
        index = order[-1] if place % 2 == 0 else order[0]
        score, rollout = group.scores[index], group.rollouts[index]
        picked.append(
            {
                "position": group.position,
                "index": index,
                "prompt": group.prompt,
                "response": score["response"],
                "reward": score["reward"],
                "parts": score["parts"],
                "errors": score["errors"],
                "finish": rollout["finish"],
                "tokens": length_of(rollout),
                "versions": rollout["versions"],
            }
        )
    return picked
