"""A run in miniature for tests of the ledger: prompts, settings, and what workers would bring."""

from collections.abc import Mapping, Sequence
from typing import Any

from tatara.rl.curriculum import CurriculumStage, HeldOut, Passing, batch_sizes
from tatara.rl.ledger.state import Settings
from tatara.rl.prompts import plan_orders
from tatara.rl.record import Prompt, Rollout, RolloutKey, Sampling, Score


def make_prompts(count: int, source: str = "sums", **metadata: Any) -> list[Prompt]:
    return [
        Prompt(
            f"{source}-{number}",
            source,
            ({"role": "user", "content": f"{number} + 1?"},),
            (1, 2, 3 + number),
            {"answer": number + 1, **metadata},
        )
        for number in range(count)
    ]


def make_stage(**changes: Any) -> CurriculumStage:
    given: dict[str, Any] = {
        "name": "only",
        "prompts": {"sums": 1.0},
        "groups_per_batch": 2,
        "group_size": 2,
        "max_response_tokens": 8,
    }
    return CurriculumStage(**(given | changes))


def make_settings(
    stages: Sequence[CurriculumStage],
    prompts: Sequence[Prompt],
    *,
    batches: int | None = None,
    staleness: int = 0,
    seed: int = 0,
    held_out: HeldOut | None = None,
    held_out_prompts: int = 0,
) -> Settings:
    return Settings(
        tuple(stages),
        plan_orders(prompts, stages, seed),
        batch_sizes(stages, batches),
        staleness,
        Passing(),
        held_out,
        held_out_prompts,
    )


def make_rollout(key: RolloutKey, prompt: Prompt, version: int, worker: str = "", **changes: Any) -> Rollout:
    tokens = (7, 8, 9)[: 1 + (key.position + key.index) % 3]
    given: dict[str, Any] = {
        "key": key,
        "prompt_ids": prompt.token_ids,
        "response_ids": tokens,
        "loss_mask": (1,) * len(tokens),
        "logprobs": (-0.25,) * len(tokens),
        "first_version": version,
        "last_version": version,
        "finish": "stop",
        "sampling": Sampling(8),
        "worker": worker,
        "seconds": 0.5,
    }
    return Rollout(**(given | changes))


def make_score(key: RolloutKey, reward: float, errors: Mapping[str, str] | None = None) -> Score:
    return Score(key, {"math": reward}, reward, f"response to {key.position}.{key.index}", dict(errors or {}))
