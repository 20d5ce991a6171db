"""What a request leads to: pure functions from a state and a request to the event that answers it, or None to wait."""

import heapq
from collections.abc import Collection, Sequence

from tatara.errors import TrainingError
from tatara.rl.ledger.packing import Record
from tatara.rl.ledger.state import Group, GroupKey, Settings, State
from tatara.rl.staleness import Candidate, admits, choose, deadline

Key = tuple[str, int, int, int]


def lost(state: State, worker: str, held: Collection[Key] | None) -> Record | None:
    """Release what a rollout worker was given and does not know of: the answer was lost, or the worker is a new one.

    Args:
        state: As it is.
        worker: Its name.
        held: Keys of the rollouts that it is to generate and has not delivered; None: it does not say.
    """
    if held is None:
        return None
    known = set(held)
    gone = [key for key in _holdings(state, worker, "holders") if key not in known]
    return {"event": "release", "worker": worker, "keys": [list(key) for key in gone]} if gone else None


def lost_scoring(state: State, worker: str, held: Collection[Key] | None) -> Record | None:
    """The same for a reward worker."""
    if held is None:
        return None
    known = set(held)
    gone = [key for key in _holdings(state, worker, "scorers") if key not in known]
    return {"event": "release", "worker": worker, "keys": [list(key) for key in gone]} if gone else None


def _holdings(state: State, worker: str, kind: str) -> list[Key]:
    return [
        (*group.key, index)
        for group in state.groups.values()
        for index, by in getattr(group, kind).items()
        if by == worker
    ]


def lease(state: State, settings: Settings, worker: str, version: int, room: int, at: float) -> Record | None:
    """What a rollout worker generates next; None: nothing that it may start.

    First what others left unfinished, then evaluations, then new groups. A group that needs more room than there is
    is shared: the next worker takes the rest.

    Raises:
        TrainingError: The worker says that it holds a version that nobody published.
    """
    if version > state.highest:
        raise TrainingError(
            f"rollout worker '{worker}' says that it holds version {version} of the policy, but the newest is "
            f"{state.highest}: it must load versions through weights()"
        )
    given: list[list[object]] = []
    for key in _unfinished(state, version):
        if room < 1:
            break
        indices = state.groups[key].unheld[:room]
        given.append([*key, indices])
        room -= len(indices)
    admitted: list[list[int | None]] = []
    draft = _Draft(state, settings)
    while room > 0:
        new = draft.next(version)
        if new is None:
            break
        size = min(room, draft.size)
        given.append(["train", 0, state.next_position + len(admitted), list(range(size))])
        admitted.append(new)
        room -= size
    if not given:
        return None
    return {"event": "lease", "worker": worker, "version": version, "admitted": admitted, "groups": given, "at": at}


def _unfinished(state: State, version: int) -> list[GroupKey]:
    """Groups with indices to generate that a version may: training before evaluation, the oldest first."""
    # A rollout must not begin before its group did, or it would be due earlier than there is room for.
    found = [key for key in state.pending if state.groups[key].version <= version]
    return sorted(found, key=lambda key: (key[0] != "train", key[1], key[2]))


class _Draft:
    """New groups in the order in which they may start, counted on from the state without changing it."""

    def __init__(self, state: State, settings: Settings):
        self._state, self._settings = state, settings
        self._live, self._places = dict(state.live), dict(state.places)
        self._replays = list(state.replays)
        self._position = state.next_position
        self.size = 0
        """Rollouts of the group that came last."""

    def next(self, version: int) -> list[int | None] | None:
        """Stage, prompt, attempt and index of the replay (None: a fresh prompt) of the next group; None: no room."""
        sizes = self._settings.sizes
        stage = self._open_stage()
        if stage is None or self._state.stopped or self._state.failed is not None:
            return None
        group = sizes.first_group(stage) + self._live.get(stage, 0)
        if not admits(group, version, self._settings.staleness, sizes):
            return None
        self._live[stage] = self._live.get(stage, 0) + 1
        self.size = self._settings.stages[stage].group_size
        due = next((i for i, each in enumerate(self._replays) if each[0] == stage and each[1] <= self._position), None)
        self._position += 1
        if due is not None:
            _, _, prompt, attempt = self._replays.pop(due)
            return [stage, prompt, attempt, due]
        place = self._places.get(stage, 0)
        self._places[stage] = place + 1
        return [stage, self._settings.orders[stage].prompt_at(place), 0, None]

    def _open_stage(self) -> int | None:
        """The first stage with room for another group: an earlier one again, if a group of it was dropped."""
        for stage in range(len(self._settings.stages)):
            room = self._settings.sizes.room(stage)
            if room is None or self._live.get(stage, 0) < room:
                return stage
        return None


def scoring(state: State, worker: str, room: int, at: float) -> Record | None:
    """Which rollouts a reward worker scores next, the oldest first; None: there is none."""
    keys: list[list[object]] = []
    groups = len(state.waiting) if room > len(state.waiting) else max(0, room)
    for key in heapq.nsmallest(groups, state.waiting, key=lambda key: (key[0] != "train", key[1], key[2])):
        keys.extend([*key, index] for index in state.groups[key].unscored[: room - len(keys)])
    return {"event": "scoring", "worker": worker, "keys": keys, "at": at} if keys else None


def batch(state: State, settings: Settings, number: int, at: float) -> Record | None:
    """The groups of the next rollout batch; None: some are missing.

    Raises:
        TrainingError: The batch is not the next one, or the run cannot go on.
    """
    if number != state.next_batch:
        raise TrainingError(
            f"rollout batch {number} was asked for, but the next one is {state.next_batch}: ask in order; if the "
            "journal is older than the checkpoint, delete the buffer's directory to go on with new rollouts"
        )
    if settings.sizes.batches is not None and number >= settings.sizes.batches:
        raise TrainingError(f"rollout batch {number} was asked for, but the run has {settings.sizes.batches}")
    if state.failed is not None:
        raise TrainingError(state.failed)
    stage = settings.sizes.stage_of(number)
    candidates = [
        Candidate(group.position, due_of(group, settings), group.complete)
        for group in state.groups.values()
        if group.stage == stage
    ]
    positions = choose(candidates, number, settings.sizes)
    return None if positions is None else {"event": "batch", "batch": number, "positions": list(positions), "at": at}


def due_of(group: Group, settings: Settings) -> int:
    """The last batch that may train on a group."""
    end = settings.sizes.end(group.stage)
    return deadline(group.version, settings.staleness, None if end is None else end - 1)


def handed_out(state: State, settings: Settings, number: int) -> Sequence[Group] | None:
    """The groups of a batch that was handed out before; None: it was not.

    Raises:
        TrainingError: It is in a checkpoint, and its rollouts are gone.
    """
    if number < state.retired and number not in state.batches:
        raise TrainingError(
            f"rollout batch {number} is in a checkpoint and its rollouts are gone; the buffer still has batches from "
            f"{state.retired} on: resume from the checkpoint at batch {state.retired} or a later one"
        )
    return state.batches.get(number)
