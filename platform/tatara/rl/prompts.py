"""Prompts of a run: the prepared file, which of them a stage takes, and in which order they come."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from tatara.config import nearest
from tatara.errors import ConfigError, DataError
from tatara.rl.curriculum import CurriculumStage
from tatara.rl.record import Prompt
from tatara.train.feed.blocks import Stretch
from tatara.train.feed.positions import bins_at


def write_prompts(path: str | Path, prompts: Iterable[Prompt]) -> int:
    """Write prepared prompts, one JSON record per line, and return how many.

    Raises:
        DataError: A prompt holds something that JSON cannot, or two of a dataset share an id.
    """
    seen: set[tuple[str, str]] = set()
    with open(path, "w", encoding="utf-8") as file:
        for prompt in prompts:
            if (prompt.source, prompt.id) in seen:
                raise DataError(f"two prompts of '{prompt.source}' have the id '{prompt.id}': ids must be unique")
            seen.add((prompt.source, prompt.id))
            record = {
                "id": prompt.id,
                "source": prompt.source,
                "messages": list(prompt.messages),
                "token_ids": list(prompt.token_ids),
                "metadata": prompt.metadata,
            }
            try:
                file.write(json.dumps(record, ensure_ascii=False, separators=(",", ":")) + "\n")
            except TypeError as error:
                raise DataError(
                    f"prompt '{prompt.id}' of '{prompt.source}' cannot be written as JSON: {error}"
                ) from None
    return len(seen)


def read_prompts(path: str | Path) -> list[Prompt]:
    """Read what `write_prompts` wrote.

    Raises:
        DataError: The file is missing, or a line of it is not a prompt.
    """
    prompts = []
    try:
        with open(path, encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                try:
                    record = json.loads(line)
                    ids = tuple(int(token) for token in record["token_ids"])
                    made = Prompt(record["id"], record["source"], tuple(record["messages"]), ids, record["metadata"])
                except (ValueError, KeyError, TypeError) as error:
                    raise DataError(
                        f"{path}:{number} is not a prepared prompt ({error!r}): prepare the file again"
                    ) from None
                prompts.append(made)
    except OSError as error:
        raise DataError(f"cannot read the prepared prompts {path}: {error.strerror or error}") from None
    return prompts


def fingerprint(prompts: Iterable[Prompt]) -> str:
    """A hash of which prompts there are and in which order; a journal of positions is worth nothing with others."""
    digest = hashlib.blake2b(digest_size=16)
    for prompt in prompts:
        tokens = np.asarray(prompt.token_ids, np.int64).tobytes()
        digest.update(
            f"{len(prompt.source)} {prompt.source}{len(prompt.id)} {prompt.id}{len(tokens)} ".encode() + tokens
        )
    return digest.hexdigest()


@dataclass(frozen=True)
class Pool:
    """The prompts that a stage takes of one dataset."""

    source: str
    weight: float
    prompts: tuple[int, ...]
    """Their numbers in the prepared file."""
    skipped: Mapping[str, int] = field(default_factory=dict)
    """How many were left out, by reason."""


@dataclass(frozen=True)
class StageOrder:
    """In which order a stage takes its prompts: a function of the seed and the place, nothing is stored.

    Datasets take turns by weight, in blocks with their exact share of each; within a dataset each epoch visits every
    prompt once, in an order of its own.
    """

    name: str
    pools: tuple[Pool, ...]
    stretch: Stretch
    seeds: tuple[int, ...]

    def prompts_at(self, places: range | Sequence[int]) -> list[int]:
        """Numbers of the prompts at places of the stage, counted from 0 and without those that come back."""
        sources, cursors = self.stretch.samples(np.asarray(places, np.int64))
        found = []
        for source, cursor in zip(sources.tolist(), cursors.tolist(), strict=True):
            members = self.pools[source].prompts
            found.append(members[int(bins_at(np.array([cursor]), len(members), self.seeds[source])[0])])
        return found

    def prompt_at(self, place: int) -> int:
        """Number of the prompt at one place."""
        return self.prompts_at([place])[0]

    def report(self) -> dict[str, Any]:
        """Prompts taken and left out, by dataset."""
        return {pool.source: {"prompts": len(pool.prompts), **pool.skipped} for pool in self.pools}


def plan_orders(prompts: Sequence[Prompt], stages: Sequence[CurriculumStage], seed: int) -> tuple[StageOrder, ...]:
    """Say for every stage which prompts come in which order.

    Raises:
        ConfigError: A stage names a dataset that no prompt is of.
        DataError: A prompt is too long, has no pass rate where one is asked for, or nothing is left of a dataset.
    """
    numbers: dict[str, list[int]] = {}
    for number, prompt in enumerate(prompts):
        numbers.setdefault(prompt.source, []).append(number)
    orders = []
    for place, stage in enumerate(stages):
        for source in stage.prompts:
            if source not in numbers:
                hint = nearest(source, numbers) if numbers else "there are no prompts at all"
                raise ConfigError(f"stage '{stage.name}' takes prompts of '{source}', but there are none; {hint}")
        pools = tuple(_pool(stage, source, prompts, numbers[source]) for source in stage.prompts)
        orders.append(_order(stage.name, place, pools, seed))
    return tuple(orders)


def _pool(stage: CurriculumStage, source: str, prompts: Sequence[Prompt], numbers: Sequence[int]) -> Pool:
    kept: list[int] = []
    skipped: Counter[str] = Counter()
    for number in numbers:
        reason = _reason_against(stage, prompts[number])
        if reason is None:
            kept.append(number)
        else:
            skipped[reason] += 1
    if not kept:
        found = ", ".join(f"{count} {reason}" for reason, count in skipped.items())
        raise DataError(f"stage '{stage.name}' has no prompt of '{source}' left ({found}): widen its limits")
    return Pool(source, stage.prompts[source], tuple(kept), dict(skipped))


def _reason_against(stage: CurriculumStage, prompt: Prompt) -> str | None:
    limit, length = stage.max_prompt_tokens, len(prompt.token_ids)
    if limit is not None and length > limit:
        if not stage.drop_long_prompts:
            raise DataError(
                f"prompt '{prompt.id}' of '{prompt.source}' has {length} tokens, stage '{stage.name}' allows {limit}: "
                "raise max_prompt_tokens, or set drop_long_prompts"
            )
        return "too long"
    if stage.difficulty is None:
        return None
    rate = prompt.metadata.get(stage.difficulty.field)
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 <= rate <= 1:
        raise DataError(
            f"prompt '{prompt.id}' of '{prompt.source}' has no '{stage.difficulty.field}' from 0 to 1 in its metadata, "
            f"which stage '{stage.name}' chooses by: measure it in an earlier round, or leave 'difficulty' out"
        )
    if rate < stage.difficulty.minimum:
        return "too hard"
    return "too easy" if rate > stage.difficulty.maximum else None


def _order(name: str, place: int, pools: tuple[Pool, ...], seed: int) -> StageOrder:
    exact = [Fraction(pool.weight).limit_denominator(1 << 20) or Fraction(1, 1 << 20) for pool in pools]
    whole = sum(exact)
    shares = [share / whole for share in exact]
    common = np.lcm.reduce([share.denominator for share in shares], dtype=object)
    stretch = Stretch(
        0,
        tuple(range(len(pools))),
        tuple(int(share * common) for share in shares),
        (0,) * len(pools),
        _key(seed, f"turns {place}"),
    )
    return StageOrder(name, pools, stretch, tuple(_key(seed, f"order {place} {pool.source}") for pool in pools))


def _key(seed: int, what: str) -> int:
    return int.from_bytes(hashlib.blake2b(what.encode(), digest_size=8, key=str(seed).encode()).digest(), "big")
