"""The loop as a queue of events: engines pull groups as staleness admits them, batches form, the learner trains.

The rules are those of the real loop (`tatara.rl.staleness`): a group starts on an engine by the version that the engine
holds, a batch takes the most urgent complete groups and waits only for those that would be late. What is left out:
start-up, evaluation, failures, the time that a message takes, and that responses of a group are alike in length.
"""

import heapq
import random
from collections import Counter
from collections.abc import Callable, Mapping

from tatara.errors import ConfigError
from tatara.rl.simulation.engines import SimulatedEngine
from tatara.rl.simulation.grouping import Groups
from tatara.rl.simulation.loop import Loop
from tatara.rl.simulation.outcome import Outcome, shares
from tatara.rl.staleness import deadline


def simulate(loop: Loop, batches: int = 12, warm_up: int | None = None, seed: int = 0) -> Outcome:
    """Run a loop.

    Args:
        loop: What to simulate.
        batches: To measure.
        warm_up: Batches before, which are not measured; the bound on staleness plus 2 where it is left out.
        seed: Of the lengths. They are drawn by the number of a group, so loops that differ in nothing but speed,
            devices or staleness generate the same.

    Raises:
        ConfigError: A count is out of range.
    """
    warm_up = loop.staleness + 2 if warm_up is None else warm_up
    if batches < 1 or warm_up < 0:
        raise ConfigError(f"measure at least one batch, not {batches}, after at least 0, not {warm_up}")
    return _Run(loop, seed).run(warm_up, batches)


class _Run:
    """The state of a simulation."""

    def __init__(self, loop: Loop, seed: int) -> None:
        self.loop = loop
        self.now = 0.0
        self.queue: list[tuple[float, int, Callable[..., None], tuple[int, ...]]] = []
        self.number = 0
        self.random = random.Random(seed)
        self.signal = random.Random(seed + 1)
        self.groups = Groups(loop.groups_per_batch)
        first = self.groups.sizes.before(loop.staleness + 1)
        self.engines = [SimulatedEngine(number, loop.engine, first) for number in range(loop.engines)]
        self.newest = 0
        self.admitted = 0
        """Groups that were trained on or still can be."""
        self.next_group = 0
        self.partly: tuple[int, list[int]] | None = None
        """The last group to start, and the lengths of those of its rollouts that no engine has yet."""
        self.began: dict[int, int] = {}
        """Version under which each group that is in no batch started."""
        self.unfinished: dict[int, int] = {}
        self.scored_at: dict[int, float] = {}
        self.tokens: dict[int, int] = {}
        self.scorers = [0.0] * (loop.reward_workers or 0)
        self.filling = self.looking = False
        self.batch = 0
        self.learner = {"train": 0.0, "wait": 0.0, "sync": 0.0}
        self.learner_free: float | None = 0.0
        """Since when the learner waits; None: it trains or publishes."""
        self.trained_tokens = 0
        self.staleness: Counter[int] = Counter()
        self.started = self.trained = self.dropped = 0

    def run(self, warm_up: int, batches: int) -> Outcome:
        self._fill_soon()
        while self.newest < warm_up:
            self._step()
        before, since = self._totals(), self.now
        self.staleness.clear()
        while self.newest < warm_up + batches:
            self._step()
        passed = {name: value - before[name] for name, value in self._totals().items()}
        return self._outcome(passed, batches, self.now - since)

    def _step(self) -> None:
        self.now, _, action, arguments = heapq.heappop(self.queue)
        action(*arguments)

    def _at(self, time: float, action: Callable[..., None], *arguments: int) -> None:
        self.number += 1
        heapq.heappush(self.queue, (time, self.number, action, arguments))

    # Engines

    def _fill_soon(self) -> None:
        """Hand out groups once everything else that happens at this moment has happened."""
        if not self.filling:
            self.filling = True
            self._at(self.now, self._fill_all)

    def _fill_all(self) -> None:
        """Hand out what may start, a group at a time to the engine that runs least."""
        self.filling = False
        order = [(len(engine.running), engine.number) for engine in self.engines if self._room(engine)]
        heapq.heapify(order)
        touched = set()
        while order:
            _, number = heapq.heappop(order)
            engine = self.engines[number]
            engine.advance(self.now)
            if not self._hand_out(engine):
                continue
            touched.add(number)
            if self._room(engine):
                heapq.heappush(order, (len(engine.running), number))
        for number in sorted(touched):
            self._foresee(self.engines[number])

    def _room(self, engine: SimulatedEngine) -> int:
        """Rollouts that an engine can take now."""
        draining = self.loop.in_flight == "drain" and engine.version < self.newest
        if engine.halted or engine.taking or draining:
            return 0
        return self.loop.concurrency - len(engine.running)

    def _hand_out(self, engine: SimulatedEngine) -> bool:
        """Give an engine with room the next group, or the part of it for which there is room; whether there was one."""
        if self.partly is None:
            if self.admitted >= engine.limit:
                return False
            group = self.next_group
            lengths = self.loop.lengths.draw(self.random, self.loop.group_size)
            self.next_group += 1
            self.admitted += 1
            self.began[group] = engine.version
            self.unfinished[group] = len(lengths)
            self.scored_at[group] = 0.0
            self.tokens[group] = sum(lengths)
            self.groups.start(group, deadline(engine.version, self.loop.staleness))
        else:
            group, lengths = self.partly
            # A rollout does not begin under an older version than its group did.
            if engine.version < self.began[group]:
                return False
        room = self._room(engine)
        for length in lengths[:room]:
            engine.start(group, length)
        self.started += len(lengths[:room])
        self.partly = (group, lengths[room:]) if lengths[room:] else None
        return True

    def _foresee(self, engine: SimulatedEngine) -> None:
        """Put the next end on an engine into the queue; what was foreseen before no longer holds."""
        engine.changes += 1
        end = engine.next_end()
        if end is not None:
            self._at(end, self._ended, engine.number, engine.changes)

    def _ended(self, number: int, changes: int) -> None:
        engine = self.engines[number]
        if changes != engine.changes:
            return
        engine.advance(self.now)
        for group in engine.ended():
            self._score(group)
        if self.loop.in_flight == "drain" and engine.version < self.newest and not engine.running:
            self._take_weights(engine)
            return
        while self._room(engine) > 0 and self._hand_out(engine):
            pass
        self._foresee(engine)

    def _take_weights(self, engine: SimulatedEngine) -> None:
        """Pause and load the newest version; where responses must not see two, once they are done."""
        engine.advance(self.now)
        if self.loop.in_flight == "drain" and engine.running:
            return
        engine.taking = True
        engine.changes += 1
        self._at(self.now + self.loop.load, self._loaded, engine.number, self.newest)

    def _loaded(self, number: int, version: int) -> None:
        engine = self.engines[number]
        engine.advance(self.now)
        engine.taking = False
        engine.version = version
        engine.limit = self.groups.sizes.before(version + self.loop.staleness + 1)
        if engine.halted:
            return
        if version < self.newest:
            self._take_weights(engine)
        else:
            self._foresee(engine)
        self._fill_soon()

    # Rewards and batches

    def _score(self, group: int) -> None:
        """A rollout of a group is generated."""
        done = self.now + self.loop.reward
        if self.scorers:
            done = max(self.now, heapq.heappop(self.scorers)) + self.loop.reward
            heapq.heappush(self.scorers, done)
        self.scored_at[group] = max(self.scored_at[group], done)
        self.unfinished[group] -= 1
        if self.unfinished[group] == 0:
            del self.unfinished[group]
            self._at(self.scored_at.pop(group), self._complete, group)

    def _complete(self, group: int) -> None:
        if self.loop.dropped and self.signal.random() < self.loop.dropped:
            self.groups.drop(group)
            del self.began[group], self.tokens[group]
            self.dropped += self.loop.group_size
            self.admitted -= 1
            self._fill_soon()
            return
        self.groups.complete(group)
        self._train_soon()

    def _train_soon(self) -> None:
        """Look for a batch once everything else that happens at this moment has happened.

        So a batch sees all groups that complete together, and what is measured up to now holds nothing of the next one.
        """
        if self.learner_free is not None and not self.looking:
            self.looking = True
            self._at(self.now, self._train)

    def _train(self) -> None:
        """Begin with the next batch if the learner waits for it and it is there."""
        self.looking = False
        if self.learner_free is None or not self.groups.ready(self.batch):
            return
        self.learner["wait"] += self.now - self.learner_free
        self.learner_free = None
        tokens = 0
        for group in self.groups.take(self.batch):
            tokens += self.tokens.pop(group)
            self.staleness[self.batch - self.began.pop(group)] += self.loop.group_size
        rollouts = self.loop.groups_per_batch * self.loop.group_size
        self.trained += rollouts
        self.trained_tokens += tokens
        seconds = self.loop.learner.seconds(tokens + self.loop.prompt_tokens * rollouts)
        self.learner["train"] += seconds
        self.learner["sync"] += self.loop.publish
        if self.loop.colocated:
            for engine in self.engines:
                engine.advance(self.now)
                engine.halted = True
                engine.changes += 1
        self._at(self.now + seconds + self.loop.publish, self._published)

    def _published(self) -> None:
        self.batch += 1
        self.newest = self.batch
        for engine in self.engines:
            engine.advance(self.now)
            was_halted, engine.halted = engine.halted, False
            if not engine.taking:
                self._take_weights(engine)
                if was_halted and not engine.taking:
                    self._foresee(engine)
        self.learner_free = self.now
        self._train_soon()

    # What came of it

    def _totals(self) -> dict[str, float]:
        for engine in self.engines:
            engine.advance(self.now)
        totals = {name: sum(engine.seconds[name] for engine in self.engines) for name in self.engines[0].seconds}
        totals |= {f"learner {name}": value for name, value in self.learner.items()}
        totals["generated"] = sum(engine.generated for engine in self.engines)
        totals["occupied"] = sum(engine.occupied for engine in self.engines)
        totals["trained"] = self.trained_tokens
        return totals

    def _outcome(self, passed: Mapping[str, float], batches: int, seconds: float) -> Outcome:
        loop = self.loop
        rollout, learner, devices = shares(loop, passed, seconds)
        return Outcome(
            batches=batches,
            seconds=seconds,
            generated=passed["generated"],
            trained=round(passed["trained"]),
            rollout=rollout,
            learner=learner,
            devices=devices,
            occupancy=passed["occupied"] / (seconds * loop.engines * loop.concurrency),
            staleness=dict(sorted(self.staleness.items())),
            started=self.started,
            trained_rollouts=self.trained,
            dropped_rollouts=self.dropped,
            held_rollouts=len(self.groups) * loop.group_size - len(self.partly[1] if self.partly else ()),
        )
