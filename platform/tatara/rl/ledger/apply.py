"""What an event changes: the one place where the state does, so that a journal of events rebuilds it."""

from collections.abc import Callable

from tatara.rl.ledger.outcome import (
    all_equal,
    describe_rewards,
    evaluate,
    pass_rate,
    pick_transcripts,
    summarise,
    usable,
)
from tatara.rl.ledger.packing import Record
from tatara.rl.ledger.state import Group, Settings, State, Worker

_KEPT_RELEASED = 64


def apply(state: State, event: Record, settings: Settings) -> None:
    """Bring a state up to date with an event, which `tatara.rl.ledger.plan` made of a request and the state before."""
    _EVENTS[event["event"]](state, event, settings)


def _hear(state: State, worker: str, at: float) -> Worker:
    """Note that a worker said something."""
    seen = state.workers.setdefault(worker, Worker())
    seen.seen, seen.released = at, False
    return seen


def _start(state: State, event: Record, settings: Settings) -> None:
    """The journal was lost, but there is a checkpoint: go on as if every group before it had been trained on."""
    number, sizes = event["batch"], settings.sizes
    state.next_batch = state.retired = number
    state.next_position = sizes.before(number)
    for stage in range(sizes.stage_of(number) + 1):
        room = sizes.room(stage)
        past = sizes.before(number) - sizes.first_group(stage)
        state.live[stage] = state.places[stage] = past if room is None else min(past, room)


def _attempt(state: State, event: Record, settings: Settings) -> None:
    """The driver was started anew: the workers of its former life are gone."""
    state.attempt = event["attempt"]
    state.stopped, state.failed, state.in_a_row = False, None, 0
    state.probes = {}
    for group in state.groups.values():
        group.holders.clear()
        group.scorers.clear()
        state.index(group)
    state.workers.clear()


def _lease(state: State, event: Record, settings: Settings) -> None:
    worker, version, at = event["worker"], event["version"], event["at"]
    _hear(state, worker, at).version = version
    for stage, prompt, attempt, replay in event["admitted"]:
        _admit(state, (stage, prompt, attempt, replay), version, settings)
    for purpose, turn, position, indices in event["groups"]:
        group = state.groups[purpose, turn, position]
        if not group.rollouts and not group.holders:
            # Nothing is left of its former start, so its deadline moves with it.
            group.version = version
        group.holders.update(dict.fromkeys(indices, worker))
        group.since = at
        state.index(group)


def _admit(state: State, what: tuple[int, int, int, int | None], version: int, settings: Settings) -> None:
    stage, prompt, attempt, replay = what
    if replay is None:
        state.places[stage] = state.places.get(stage, 0) + 1
    else:
        del state.replays[replay]
    size = settings.stages[stage].group_size
    group = Group("train", 0, state.next_position, stage, prompt, size, version, attempt)
    state.groups[group.key] = group
    state.next_position += 1
    state.live[stage] = state.live.get(stage, 0) + 1


def _deliver(state: State, event: Record, settings: Settings) -> None:
    _hear(state, event["worker"], event["at"]).rollouts += len(event["rollouts"])
    state.ignored += event["ignored"]
    for record in event["rollouts"]:
        purpose, turn, position, index = record["key"]
        group = state.groups[purpose, turn, position]
        group.rollouts[index] = record
        group.holders.pop(index, None)
        state.index(group)


def _scoring(state: State, event: Record, settings: Settings) -> None:
    worker = event["worker"]
    _hear(state, worker, event["at"])
    for purpose, turn, position, index in event["keys"]:
        group = state.groups[purpose, turn, position]
        group.scorers[index] = worker
        state.index(group)


def _score(state: State, event: Record, settings: Settings) -> None:
    _hear(state, event["worker"], event["at"]).scores += len(event["scores"])
    state.ignored += event["ignored"]
    for record in event["scores"]:
        purpose, turn, position, index = record["key"]
        group = state.groups[purpose, turn, position]
        group.scores[index] = record
        group.scorers.pop(index, None)
        state.index(group)
        if group.complete:
            (_judge if purpose == "train" else _close_evaluation)(state, group, settings)


def _judge(state: State, group: Group, settings: Settings) -> None:
    """A group of training is complete: keep it, or drop it and let another start in its place."""
    stage = settings.stages[group.stage]
    if len(usable(group)) < min(2, group.size):
        _drop(state, group, "reward errors")
        return
    replay = stage.replay
    if pass_rate(group, settings.passing) < replay.below and group.attempt < replay.times:
        state.replays.append([group.stage, state.next_position + replay.delay, group.prompt, group.attempt + 1])
    sampling = stage.dynamic_sampling
    if not sampling.enabled or not all_equal(group, sampling.tolerance):
        state.in_a_row = 0
        return
    _drop(state, group, "no signal")
    state.in_a_row += 1
    if state.in_a_row >= sampling.most_in_a_row and state.failed is None:
        state.failed = (
            f"stage '{stage.name}': all rollouts of each of the last {state.in_a_row} groups got equal rewards (of the "
            f"last one {describe_rewards(group)}), so nothing can be learned: give prompts of another difficulty or a "
            "finer reward, or raise dynamic_sampling.most_in_a_row"
        )


def _drop(state: State, group: Group, reason: str) -> None:
    del state.groups[group.key]
    state.index(group)
    state.live[group.stage] -= 1
    state.dropped[reason] += 1
    state.dropped_since.append([group.position, group.prompt, reason])


def _close_evaluation(state: State, group: Group, settings: Settings) -> None:
    members = [each for each in state.groups.values() if each.purpose == "evaluate" and each.round == group.round]
    if settings.held_out is None or not all(each.complete for each in members):
        return
    found = evaluate(group.round, members, settings.held_out.k, settings.passing)
    state.evaluations[group.round] = found
    state.note("evaluation", **found)
    for transcript in pick_transcripts(members, settings.transcripts):
        state.note("transcript", purpose="evaluate", version=group.round, **transcript)
    for each in members:
        del state.groups[each.key]


def _batch(state: State, event: Record, settings: Settings) -> None:
    number = event["batch"]
    groups = [state.groups.pop(("train", 0, position)) for position in event["positions"]]
    state.batches[number] = groups
    state.next_batch = number + 1
    state.dropped_before[number], state.dropped_since = state.dropped_since, []
    found = [number - rollout["versions"][0] for group in groups for rollout in group.rollouts.values()]
    own = {lag: found.count(lag) for lag in sorted(set(found))}
    state.staleness.update(own)
    summary = summarise(groups, settings.passing)
    stage = settings.stages[settings.sizes.stage_of(number)].name
    state.note("batch", batch=number, stage=stage, at=event["at"], staleness=own, **summary)
    if number % settings.transcripts_every == 0:
        for transcript in pick_transcripts(groups, settings.transcripts):
            state.note("transcript", purpose="train", batch=number, **transcript)
    if number + 1 == settings.sizes.end(settings.sizes.stage_of(number)):
        # Prompts come back within their stage only: the next one may not take them.
        over = settings.sizes.stage_of(number)
        state.replays = [each for each in state.replays if each[0] != over]


def _release(state: State, event: Record, settings: Settings) -> None:
    """A worker lost what it held: all of it, or some keys."""
    worker, keys = event["worker"], event["keys"]
    lost = None if keys is None else {tuple(key) for key in keys}
    for group in state.groups.values():
        for held in (group.holders, group.scorers):
            gone = [i for i, by in held.items() if by == worker and (lost is None or (*group.key, i) in lost)]
            for index in gone:
                del held[index]
            if gone:
                state.index(group)
    if keys is None and worker in state.workers:
        state.workers[worker].released = True
        released = [name for name, each in state.workers.items() if each.released]
        for name in released[:-_KEPT_RELEASED]:
            del state.workers[name]


def _evaluate(state: State, event: Record, settings: Settings) -> None:
    version = event["version"]
    state.evaluations[version] = None
    assert settings.held_out is not None
    for number in range(settings.held_out_prompts):
        group = Group("evaluate", version, number, -1, number, settings.held_out.samples, version)
        state.groups[group.key] = group
        state.index(group)


def _publish(state: State, event: Record, settings: Settings) -> None:
    state.newest = event["version"]
    state.highest = max(state.highest, state.newest)
    state.published = True
    # A learner that came back from its checkpoint publishes versions again: what workers said of others is void.
    state.probes = {state.newest: state.probes.get(state.newest, {})}


def _acknowledge(state: State, event: Record, settings: Settings) -> None:
    version = event["version"]
    if version == state.newest:
        state.probes.setdefault(version, {})[event["worker"]] = event["logprobs"]
    _hear(state, event["worker"], event["at"]).version = version


def _checkpoint(state: State, event: Record, settings: Settings) -> None:
    number = event["batch"]
    state.retired = max(state.retired, number)
    state.batches = {batch: groups for batch, groups in state.batches.items() if batch >= number}
    state.dropped_before = {batch: lost for batch, lost in state.dropped_before.items() if batch >= number}


def _fail(state: State, event: Record, settings: Settings) -> None:
    state.failed = state.failed or event["reason"]


def _stop(state: State, event: Record, settings: Settings) -> None:
    state.stopped = True


_EVENTS: dict[str, Callable[[State, Record, Settings], None]] = {
    "start": _start,
    "attempt": _attempt,
    "lease": _lease,
    "deliver": _deliver,
    "scoring": _scoring,
    "score": _score,
    "batch": _batch,
    "release": _release,
    "evaluate": _evaluate,
    "publish": _publish,
    "acknowledge": _acknowledge,
    "checkpoint": _checkpoint,
    "fail": _fail,
    "stop": _stop,
}
