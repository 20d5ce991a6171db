"""The state as the driver and the report show it."""

from collections import Counter
from typing import Any

from tatara.rl.ledger.packing import spans
from tatara.rl.ledger.plan import due_of
from tatara.rl.ledger.state import Group, Settings, State


def status(state: State, settings: Settings, since: int, now: float) -> dict[str, Any]:
    """Plain data.

    Args:
        state: As it is.
        settings: Of the run.
        since: The ``noted`` of the last status that was read; 0 asks for all notes that are kept.
        now: Seconds since the epoch.
    """
    train = [group for group in state.groups.values() if group.purpose == "train"]
    held = _held(state)
    return {
        "attempt": state.attempt,
        "stopped": state.stopped,
        "failed": state.failed,
        "newest": state.newest,
        "next_batch": state.next_batch,
        "batches": settings.sizes.batches,
        "checkpointed": state.retired,
        "positions": state.next_position,
        "groups": dict(sorted(Counter(group.phase for group in train).items())),
        "evaluating": dict(sorted(Counter(g.phase for g in state.groups.values() if g.purpose == "evaluate").items())),
        "waiting_for": waiting_for(state, settings),
        "batched": sum(len(groups) for groups in state.batches.values()),
        "dropped": dict(state.dropped),
        "replays": len(state.replays),
        "ignored": state.ignored,
        "staleness": dict(sorted(state.staleness.items())),
        "evaluations": {version: found for version, found in state.evaluations.items() if found is not None},
        "workers": {
            name: {
                "version": worker.version,
                "released": worker.released,
                "idle_s": max(0.0, now - worker.seen),
                "rollouts": worker.rollouts,
                "scores": worker.scores,
                "generating": held["holders"][name],
                "scoring": held["scorers"][name],
            }
            for name, worker in sorted(state.workers.items())
        },
        "leases": [_lease(group, now) for group in state.groups.values() if group.holders],
        "prompts": {order.name: order.report() for order in settings.orders},
        "noted": state.noted,
        "notes": [note for note in state.notes if note["number"] > since],
    }


def waiting_for(state: State, settings: Settings) -> str:
    """What the next batch waits for, in one line."""
    number = state.next_batch
    if settings.sizes.batches is not None and number >= settings.sizes.batches:
        return "nothing: all batches were handed out"
    stage = settings.sizes.stage_of(number)
    groups = [group for group in state.groups.values() if group.stage == stage]
    ready, size = sum(group.complete for group in groups), settings.sizes.size(number)
    line = f"batch {number} needs {size} groups, {ready} of {len(groups)} are ready"
    due = [group for group in groups if not group.complete and due_of(group, settings) <= number]
    if due:
        first = min(due, key=lambda group: group.position)
        missing = [index for index in range(first.size) if index not in first.rollouts]
        holders = sorted(set(first.holders.values()) | set(first.scorers.values()))
        what = f"rollouts {spans(missing)}" if missing else "scores"
        line += f"; {what} of position {first.position} are due ({', '.join(holders) or 'nobody works on them'})"
    return line


def _held(state: State) -> dict[str, Counter[str]]:
    held: dict[str, Counter[str]] = {"holders": Counter(), "scorers": Counter()}
    for group in state.groups.values():
        held["holders"].update(group.holders.values())
        held["scorers"].update(group.scorers.values())
    return held


def _lease(group: Group, now: float) -> dict[str, Any]:
    return {
        "purpose": group.purpose,
        "round": group.round,
        "position": group.position,
        "workers": sorted(set(group.holders.values())),
        "rollouts": spans(list(group.holders)),
        "version": group.version,
        "age_s": max(0.0, now - group.since),
    }
