"""Whether what a worker delivers is what it was asked for; what came before or too late is left out."""

from collections.abc import Sequence

import numpy as np

from tatara.errors import TrainingError
from tatara.rl.ledger.packing import Record, key_of, pack_rollout, pack_score
from tatara.rl.ledger.plan import Key
from tatara.rl.ledger.state import Group, State
from tatara.rl.record import Prompt, Rollout, Score


def deliver(
    state: State,
    worker: str,
    rollouts: Sequence[Rollout],
    prompts: Sequence[Prompt],
    held_out: Sequence[Prompt],
    at: float,
) -> Record:
    """The event of a delivery, with what is new in it.

    Raises:
        TrainingError: One line naming the rollout and what is wrong with it; nothing of the delivery is taken.
    """
    if worker not in state.workers:
        raise TrainingError(f"rollout worker '{worker}' delivers, but never leased: lease first")
    fresh: dict[Key, Record] = {}
    for rollout in rollouts:
        group = _group_of(state, key_of(rollout.key), worker)
        if group is None or rollout.key.index in group.rollouts or key_of(rollout.key) in fresh:
            continue
        prompt = (prompts if group.purpose == "train" else held_out)[group.prompt]
        if _is_late(group, rollout, worker):
            continue
        _check(rollout, prompt, worker)
        fresh[key_of(rollout.key)] = pack_rollout(rollout)
    records = list(fresh.values())
    return {
        "event": "deliver",
        "worker": worker,
        "rollouts": records,
        "ignored": len(rollouts) - len(records),
        "at": at,
    }


def score(state: State, worker: str, scores: Sequence[Score], at: float) -> Record:
    """The event of scores, with what is new in it.

    Raises:
        TrainingError: One line naming the rollout and what is wrong; nothing is taken.
    """
    if worker not in state.workers:
        raise TrainingError(f"reward worker '{worker}' has scores, but never leased: lease first")
    fresh: dict[Key, Record] = {}
    for each in scores:
        group = _group_of(state, key_of(each.key), worker)
        if group is None or each.key.index in group.scores or key_of(each.key) in fresh:
            continue
        if each.key.index not in group.rollouts:
            raise TrainingError(f"reward worker '{worker}' scores {_name(key_of(each.key))}, which is not generated")
        fresh[key_of(each.key)] = pack_score(each)
    records = list(fresh.values())
    return {"event": "score", "worker": worker, "scores": records, "ignored": len(scores) - len(records), "at": at}


def _group_of(state: State, key: Key, worker: str) -> Group | None:
    """The open group of a key; None: it is done with.

    Raises:
        TrainingError: Nobody was ever asked for it.
    """
    purpose, turn, position, index = key
    group = state.groups.get((purpose, turn, position))  # type: ignore[arg-type]
    if group is not None:
        if not 0 <= index < group.size:
            raise TrainingError(f"worker '{worker}' brings {_name(key)}, but its group has {group.size} rollouts")
        return group
    past = position < state.next_position if purpose == "train" else turn in state.evaluations
    if not past or position < 0:
        raise TrainingError(
            f"worker '{worker}' brings {_name(key)}, which was never handed out: deliver leased keys only"
        )
    return None


def _is_late(group: Group, rollout: Rollout, worker: str) -> bool:
    """Whether the rollout began before its group did: the group was taken from the worker and started again."""
    if rollout.first_version >= group.version:
        return False
    if group.holders.get(rollout.key.index) == worker:
        raise TrainingError(
            f"worker '{worker}' brings {_name(key_of(rollout.key))} begun with version {rollout.first_version}, but "
            f"leased it with version {group.version}: lease with the version that the engine holds"
        )
    return True


def _check(rollout: Rollout, prompt: Prompt, worker: str) -> None:
    what = f"worker '{worker}' brings {_name(key_of(rollout.key))}"
    if tuple(rollout.prompt_ids) != prompt.token_ids:
        raise TrainingError(
            f"{what} with other prompt tokens than those of prompt '{prompt.id}': answer what was leased"
        )
    length = len(rollout.response_ids)
    for name in ("loss_mask", "logprobs"):
        if len(getattr(rollout, name)) != length:
            raise TrainingError(f"{what} with {length} tokens, but {len(getattr(rollout, name))} in {name}")
    if rollout.last_version < rollout.first_version:
        raise TrainingError(
            f"{what} with last version {rollout.last_version} before the first, {rollout.first_version}"
        )
    if not np.isfinite(np.asarray(rollout.logprobs, np.float64)).all():
        raise TrainingError(
            f"{what} with a log-probability that is not finite: the engine's weights or inputs are broken"
        )


def _name(key: Key) -> str:
    purpose, turn, position, index = key
    where = f"position {position}" if purpose == "train" else f"held-out prompt {position} of version {turn}"
    return f"rollout {index} of {where}"
