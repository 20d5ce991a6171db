"""What the lineage of a finished GRPO run must say, however often its processes were killed."""

import json
from collections import Counter
from pathlib import Path
from typing import Any


def lineage(artifact: Path) -> list[dict[str, Any]]:
    """Its batches, as the artifact keeps them."""
    lines = (artifact / "rl" / "batches.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def faults(artifact: Path, *, batches: int, groups: int, size: int, staleness: int, prompts: int) -> list[str]:
    """What is wrong with a run of one stage, in words; nothing if all is well.

    Args:
        artifact: Its result.
        batches: Rollout batches that it was to train on.
        groups: Groups of each.
        size: Rollouts of a group.
        staleness: Bound.
        prompts: Different prompts that there are to train on.
    """
    lines = lineage(artifact)
    found = []
    numbers = [line["batch"] for line in lines]
    if numbers != list(range(batches)):
        found.append(f"batches are {numbers}, not 0 to {batches - 1}")
    used = Counter(position for line in lines for position in line["positions"])
    used.update(each["position"] for line in lines for each in line["dropped"])
    found += [f"position {position} was used {count} times" for position, count in used.items() if count > 1]
    # A run of a given length admits no group that it cannot train on, so none is left at its end.
    lost = sorted(set(range(max(used, default=-1) + 1)) - set(used))
    if lost:
        found.append(f"positions {lost} were lost")
    seen = Counter(tuple(prompt) for line in lines for prompt in line["prompts"])
    if max(seen.values()) > -(-used.total() // prompts):
        found.append(f"prompt {seen.most_common(1)[0][0]} was trained on {max(seen.values())} times")
    for line in lines:
        if len(line["positions"]) != groups or any(len(versions) != size for versions in line["versions"]):
            found.append(f"batch {line['batch']} is not {groups} groups of {size}")
        for first, last in (pair for group in line["versions"] for pair in group):
            if not line["batch"] - staleness <= first <= line["batch"] or last > line["batch"]:
                found.append(f"batch {line['batch']} has a rollout of versions {first} to {last}")
    return found + _figures(artifact, batches)


def _figures(artifact: Path, batches: int) -> list[str]:
    """Where the result's figures and its last evaluation do not agree with the number of batches."""
    metrics = json.loads((artifact / "manifest.json").read_text(encoding="utf-8"))["metrics"]
    evaluations = json.loads((artifact / "rl" / "evaluations.json").read_text(encoding="utf-8"))
    found = [f"{name} is {metrics[name]}, not {batches}" for name in ("steps", "batches") if metrics[name] != batches]
    if str(batches) not in evaluations:
        found.append(f"the last version was not evaluated, only {sorted(map(int, evaluations))}")
    return found
