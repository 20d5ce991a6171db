"""The pure ledger: a simulated run with everything that goes wrong, then single rules."""

import copy
import itertools
from collections import Counter

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rl.ledger_run import BATCHES, PROMPTS, STAGES, World, run_batch
from rl.ledger_world import make_prompts, make_rollout, make_score, make_settings, make_stage
from tatara.errors import TrainingError
from tatara.rl.curriculum import DynamicSampling, HeldOut, Replay
from tatara.rl.ledger import State, apply, checks, pass_at_k, plan, restore, snapshot
from tatara.rl.record import RolloutKey

actions = st.lists(
    st.tuples(st.sampled_from("lllldddssstukre"), st.integers(0, 2), st.integers(0, 7)), min_size=10, max_size=120
)


def act(world: World, action: str, who: int, number: int) -> None:
    worker, scorer = f"engine-{who}", f"reward-{who}"

    def reward(key):
        # Now and then all of a group get the same: no signal.
        return 0.0 if key.position % 4 == 3 else float((key.position + key.index + number) % 2)

    if action == "l":
        world.lease(worker, number)
    elif action == "d":
        world.deliver(worker, range(number, -1, -2))
    elif action == "s":
        world.score(scorer, number, reward, lose=number == 7)
    elif action == "t" and world.version < BATCHES:
        world.train()
    elif action == "u":
        world.versions[worker] = world.version
    elif action == "k":
        # It dies and comes back with what is published, or holds the first version as a new one does.
        world.commit({"event": "release", "worker": worker, "keys": None})
        world.commit({"event": "release", "worker": scorer, "keys": None})
        world.running[worker] = []
        world.versions[worker] = 0 if number < 4 else world.version
    elif action == "r" and world.running.get(worker):
        # The answer to its last request was lost: it asks again, with what it knows of.
        world.running[worker] = world.running[worker][: number // 2]
    elif action == "e" and number % 3 == 0:
        world.commit({"event": "checkpoint", "batch": world.version})


@settings(max_examples=120)
@given(st.integers(0, 3), actions, st.tuples(*[st.sampled_from([1, 2, 15])] * 3), st.sampled_from([1, 4, 12]))
def test_whatever_workers_do_nothing_is_stale_lost_or_doubled_and_the_run_ends(staleness, drawn, paces, room):
    rules = make_settings(STAGES, PROMPTS, batches=BATCHES, staleness=staleness)
    world = World(rules)
    for action, who, number in drawn:
        act(world, action, who, number)
    # From here on nobody dies and everybody works, some slowly: the run must come to its end.
    for turn in range(1000):
        if world.version == BATCHES:
            break
        for who, pace in enumerate(paces):
            act(world, "k" if turn == 0 else "u", who, 7)
            world.lease(f"engine-{who}", room - len(world.running[f"engine-{who}"]))
            if turn % pace == pace - 1:
                world.deliver(f"engine-{who}", range(room))
            world.score(f"reward-{who}", 8, lambda key: float(key.index % 2))
        world.train()
    assert world.version == BATCHES, "the run hangs"
    positions = [position for batch in world.trained.values() for position in {each for each, _ in batch}]
    assert len(positions) == len(set(positions)) == rules.sizes.before(BATCHES), (
        "a position is in two batches or in none"
    )
    for number, batch in world.trained.items():
        assert all(0 <= number - first <= staleness for _, first in batch)
        assert len({position for position, _ in batch}) == rules.sizes.size(number)
        assert len(batch) == rules.sizes.size(number) * rules.stages[rules.sizes.stage_of(number)].group_size
    # What was started was trained on, or dropped for a reason.
    assert world.state.next_position == len(positions) + sum(world.state.dropped.values())
    assert not world.state.groups
    assert sum(world.state.staleness.values()) == sum(map(len, world.trained.values()))


@settings(max_examples=60)
@given(actions, st.integers(0, 200), st.booleans())
def test_a_replay_of_any_prefix_is_the_live_state(drawn, cut, through_snapshot):
    held_out = make_prompts(2, "held-out")
    rules = make_settings(
        STAGES,
        PROMPTS,
        batches=BATCHES,
        staleness=1,
        held_out=HeldOut(samples=2, max_response_tokens=4),
        held_out_prompts=2,
    )
    world, states = World(rules, held_out), []
    world.commit({"event": "evaluate", "version": 0})
    for action, who, number in drawn:
        act(world, action, who, number)
        states.append((len(world.events), copy.deepcopy(world.state)))
    count, live = states[cut % len(states)]
    again = State()
    for place, event in enumerate(world.events[:count]):
        if through_snapshot and place == count // 2:
            again = restore(msgpack.unpackb(msgpack.packb(snapshot(again)), strict_map_key=False))
        apply(again, event, rules)
    assert again == live


def test_staleness_zero_is_strictly_synchronous():
    world = World(make_settings([make_stage()], PROMPTS, batches=3))
    for version in range(3):
        world.versions["engine"] = version
        assert world.lease("engine", 100) == 4
        assert world.lease("engine", 100) == 0
        world.deliver("engine", range(4))
        world.score("reward", 100, lambda key: float(key.index))
        assert world.lease("engine", 100) == 0
        assert world.train()
        assert {first for _, first in world.trained[version]} == {version}


def test_staleness_n_starts_exactly_what_n_more_batches_take():
    world = World(make_settings([make_stage()], PROMPTS, staleness=2))
    assert world.lease("engine", 100) == 3 * 4
    world.deliver("engine", range(12))
    world.score("reward", 100, lambda key: float(key.index))
    assert world.train()
    assert world.lease("engine", 100) == 0, "capacity returns with the engine's version, not with the learner's"
    world.versions["engine"] = 1
    assert world.lease("engine", 100) == 4


def test_partial_groups_survive_a_worker():
    world = World(make_settings([make_stage(group_size=4)], PROMPTS))
    assert world.lease("one", 8) == 8
    done = world.deliver("one", [0, 2, 5])
    world.commit({"event": "release", "worker": "one", "keys": None})
    event = plan.lease(world.state, world.rules, "two", 0, 100, 0.0)
    assert event["groups"] == [["train", 0, 0, [1, 3]], ["train", 0, 1, [0, 2, 3]]]
    assert event["admitted"] == []
    assert world.lease("two", 100) == 5
    # The dead one was only slow: what is there already is not taken twice, what is not there is welcome.
    world.running["one"] = [(RolloutKey("train", 0, 0, 1), PROMPTS[world.state.groups["train", 0, 0].prompt], 0)]
    late = world.deliver("one", [0])
    assert len(late) == 1
    again = world.deliver("two", range(5))
    assert len(again) == 5
    assert world.state.ignored == 1
    group = world.state.groups["train", 0, 0]
    assert [group.rollouts[index]["worker"] for index in range(4)] == ["one", "one", "one", "two"]
    assert len(done) == 3


def test_a_group_that_starts_again_takes_its_deadline_along():
    world = World(make_settings([make_stage()], PROMPTS, staleness=1))
    world.lease("one", 100)
    late = list(world.running["one"])
    world.lease("two", 100)
    for key, prompt, _ in late[:4]:
        world.commit(checks.deliver(world.state, "one", [make_rollout(key, prompt, 0, "one")], PROMPTS, (), 0.0))
    world.score("reward", 100, lambda key: float(key.index))
    assert world.train()
    world.commit({"event": "release", "worker": "one", "keys": None})
    world.versions["two"] = 1
    world.lease("two", 100)
    assert world.state.groups["train", 0, 2].version == 1
    # What the first worker brings after all began too early for the new deadline.
    world.running["one"] = late[4:]
    world.deliver("one", range(4))
    assert world.state.ignored == 4


def test_a_lost_answer_is_given_again():
    world = World(make_settings([make_stage()], PROMPTS))
    assert world.lease("engine", 100) == 4
    world.running["engine"] = world.running["engine"][:1]
    assert world.lease("engine", 100, held=False) == 0
    assert world.lease("engine", 100) == 3
    assert sorted(key.position * 2 + key.index for key, _, _ in world.running["engine"]) == [0, 1, 2, 3]


def test_a_worker_without_room_for_a_group_shares_it():
    world = World(make_settings([make_stage(group_size=5, groups_per_batch=1)], PROMPTS))
    assert [world.lease(name, 2) for name in ("one", "two", "three", "four")] == [2, 2, 1, 0]


def test_dropped_groups_make_room_and_prompts_without_end_of_signal_stop_the_run():
    stage = make_stage(dynamic_sampling=DynamicSampling(enabled=True, most_in_a_row=3))
    world = World(make_settings([stage], PROMPTS))
    assert run_batch(world, lambda key: float(key.index) if key.position in (1, 3) else 1.0)
    assert [position for position, _ in world.trained[0]] == [1, 1, 3, 3]
    assert world.state.dropped == Counter({"no signal": 2})
    with pytest.raises(TrainingError, match=r"last 3 groups got equal rewards \(of the last one math 1\)"):
        run_batch(world, lambda key: 1.0)
    assert world.lease("engine", 100) == 0


def test_failed_rewards_drop_a_group_that_has_too_few_left():
    world = World(make_settings([make_stage(group_size=3)], PROMPTS))
    world.lease("engine", 100)
    world.deliver("engine", range(6))
    scores = []
    for key in world.score("reward", 100, float, lose=True):
        fails = key.index >= 1 if key.position == 0 else key.index == 2
        scores.append(make_score(key, 1.0, {"math": "raised ValueError"} if fails else None))
    world.commit(checks.score(world.state, "reward", scores, 0.0))
    assert world.state.dropped == Counter({"reward errors": 1})
    assert [group.position for group in world.state.groups.values()] == [1]
    assert world.lease("engine", 100) == 3


def test_too_hard_prompts_come_back_where_the_recorded_outcomes_say():
    stage = make_stage(replay=Replay(below=0.25, times=2, delay=5), groups_per_batch=1)
    world = World(make_settings([stage], PROMPTS))
    asked: list[int] = []

    def reward(key):
        return 0.0 if world.state.groups["train", 0, key.position].prompt == asked[0] else float(key.index)

    asked.append(plan.lease(world.state, world.rules, "engine", 0, 1, 0.0)["admitted"][0][1])
    for _ in range(20):
        assert run_batch(world, reward)
    hard = [g.position for groups in world.state.batches.values() for g in groups if g.prompt == asked[0]]
    # Position 0 is known when position 1 is next, so 1 + 5; then 7 + 5; and the second epoch on its own account.
    assert hard[:3] == [0, 6, 12]
    fresh = [g.prompt for groups in world.state.batches.values() for g in groups if g.attempt == 0]
    assert sorted(fresh[:11]) == list(range(11)), "prompts that come back take no fresh prompt's turn away"


def test_stages_take_their_own_settings_and_never_mix():
    world = World(make_settings(STAGES, PROMPTS, batches=BATCHES, staleness=3))
    assert world.lease("engine", 1000) == 2 * 2 + 4 * 3
    assert [world.state.groups["train", 0, p].size for p in range(6)] == [2] * 2 + [3] * 4


def test_evaluation_goes_first_and_says_pass_at_k():
    held_out = make_prompts(3, "held-out")
    rules = make_settings(
        [make_stage()], PROMPTS, held_out=HeldOut(samples=4, k=(1, 2), max_response_tokens=4), held_out_prompts=3
    )
    world = World(rules, held_out)
    world.lease("engine", 1)
    world.commit({"event": "release", "worker": "engine", "keys": None})
    world.commit({"event": "evaluate", "version": 0})
    event = plan.lease(world.state, rules, "engine", 0, 100, 0.0)
    assert [group[0] for group in event["groups"]] == ["train", "evaluate", "evaluate", "evaluate", "train"]
    world.lease("engine", 100)
    world.deliver("engine", range(100))
    world.score("reward", 100, lambda key: float(key.index < key.position) if key.purpose == "evaluate" else 1.0)
    found = world.state.evaluations[0]
    # 0, 1 and 2 of four pass.
    assert found["pass@1"] == pytest.approx((0 + 1 / 4 + 2 / 4) / 3)
    assert found["pass@2"] == pytest.approx((0 + 3 / 6 + 5 / 6) / 3)
    assert found["rollouts"] == 12
    assert {group.purpose for group in world.state.groups.values()} == {"train"}
    assert [note["kind"] for note in world.state.notes] == ["evaluation", "transcript", "transcript"]


@given(st.integers(1, 7), st.data())
def test_pass_at_k_is_the_share_of_subsets_with_a_pass(samples, data):
    passed, k = data.draw(st.integers(0, samples)), data.draw(st.integers(1, samples))
    subsets = list(itertools.combinations([True] * passed + [False] * (samples - passed), k))
    assert pass_at_k(samples, passed, k) == pytest.approx(sum(map(any, subsets)) / len(subsets))


def test_one_batch_has_one_answer_and_is_asked_for_in_order():
    world = World(make_settings([make_stage()], PROMPTS))
    assert run_batch(world)
    first = [group.position for group in plan.handed_out(world.state, world.rules, 0)]
    assert run_batch(world)
    assert [group.position for group in plan.handed_out(world.state, world.rules, 0)] == first
    with pytest.raises(TrainingError, match="batch 5 was asked for, but the next one is 2"):
        plan.batch(world.state, world.rules, 5, 0.0)
    world.commit({"event": "checkpoint", "batch": 1})
    with pytest.raises(TrainingError, match="batch 0 is in a checkpoint"):
        plan.handed_out(world.state, world.rules, 0)


def test_a_lost_journal_goes_on_from_the_checkpoint():
    stages = (make_stage(until_batch=2), make_stage(groups_per_batch=3))
    rules = make_settings(stages, PROMPTS, batches=BATCHES)
    whole, rest = World(rules), World(rules)
    rest.commit({"event": "start", "batch": 3})
    rest.version = 3
    rest.commit({"event": "publish", "version": 3})
    while whole.version < BATCHES:
        assert run_batch(whole)
    while rest.version < BATCHES:
        assert run_batch(rest)
    for number in (3, 4):
        assert rest.trained[number] == whole.trained[number]
        assert [g.prompt for g in rest.state.batches[number]] == [g.prompt for g in whole.state.batches[number]]
