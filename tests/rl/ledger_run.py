"""A simulated run around the ledger: workers and a learner that say what they are told to."""

import msgpack

from rl.ledger_world import make_prompts, make_rollout, make_score, make_stage
from tatara.rl.curriculum import DynamicSampling, Replay
from tatara.rl.ledger import State, apply, checks, plan
from tatara.rl.record import RolloutKey

PROMPTS = make_prompts(11)
STAGES = (
    make_stage(name="short", until_batch=2, groups_per_batch=1, group_size=2),
    make_stage(
        name="long",
        groups_per_batch=2,
        group_size=3,
        dynamic_sampling=DynamicSampling(enabled=True, most_in_a_row=1000),
        replay=Replay(below=0.5, times=1, delay=3),
    ),
)
BATCHES = 7


class World:
    """Workers and a learner around a ledger; what they do is drawn, what they say goes through the same functions."""

    def __init__(self, rules, held_out=()):
        self.rules, self.state, self.events = rules, State(), []
        self.held_out = held_out
        self.versions: dict[str, int] = {}
        self.running: dict[str, list[tuple[RolloutKey, object, int]]] = {}
        self.trained: dict[int, list[tuple[int, int]]] = {}
        self.version = 0

    def commit(self, event):
        if event is not None:
            # Through the wire format, as the journal would bring it back.
            event = msgpack.unpackb(msgpack.packb(event), strict_map_key=False)
            self.events.append(event)
            apply(self.state, event, self.rules)
        return event

    def lease(self, worker, room, held=True):
        running = self.running.setdefault(worker, [])
        version = self.versions.setdefault(worker, 0)
        if held:
            keys = [(key.purpose, key.round, key.position, key.index) for key, _, _ in running]
            self.commit(plan.lost(self.state, worker, keys))
        event = self.commit(plan.lease(self.state, self.rules, worker, version, room, 0.0))
        given = 0
        for purpose, turn, position, indices in event["groups"] if event else ():
            group = self.state.groups[purpose, turn, position]
            prompt = (PROMPTS if purpose == "train" else self.held_out)[group.prompt]
            running += [(RolloutKey(purpose, turn, position, index), prompt, version) for index in indices]
            given += len(indices)
        assert given <= max(room, 0)
        return given

    def deliver(self, worker, places):
        running = self.running.get(worker, [])
        chosen = [running[place % len(running)] for place in places] if running else []
        rollouts = [make_rollout(key, prompt, version, worker) for key, prompt, version in chosen]
        if rollouts:
            self.commit(checks.deliver(self.state, worker, rollouts, PROMPTS, self.held_out, 0.0))
        self.running[worker] = [each for each in running if each not in chosen]
        return rollouts

    def score(self, worker, room, reward, lose=False):
        event = self.commit(plan.scoring(self.state, worker, room, 0.0))
        keys = [RolloutKey(*key) for key in event["keys"]] if event else []
        if keys and not lose:
            self.commit(checks.score(self.state, worker, [make_score(key, reward(key)) for key in keys], 0.0))
        return keys

    def train(self):
        """One update, if the batch is there: it turns version v into v + 1."""
        event = self.commit(plan.batch(self.state, self.rules, self.version, 0.0))
        if event is None:
            return False
        groups = self.state.batches[self.version]
        self.trained[self.version] = [
            (group.position, r["versions"][0]) for group in groups for r in group.rollouts.values()
        ]
        self.version += 1
        self.commit({"event": "publish", "version": self.version})
        return True


def run_batch(world: World, reward=lambda key: float(key.index % 2)) -> bool:
    world.versions["engine"] = world.version
    while world.lease("engine", 100):
        world.deliver("engine", range(100))
        world.score("reward", 100, reward)
    return world.train()
