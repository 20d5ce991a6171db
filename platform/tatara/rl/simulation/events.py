"""The loop as a queue of events: engines pull groups as staleness admits them, batches form, the learner trains.

The rules are those of the real loop (`tatara.rl.staleness`): a group starts on an engine by the version that the engine
holds, a batch takes the most urgent complete groups and waits only for those that would be late. What is left out:
start-up, evaluation, failures, and that responses of a group are alike in length.
"""

import heapq
import random
from collections import Counter
from collections.abc import Mapping, Sequence

from tatara.errors import ConfigError
from tatara.rl.simulation.learning import SimulatedLearner
from tatara.rl.simulation.loop import Loop
from tatara.rl.simulation.outcome import Outcome, shares
from tatara.rl.simulation.rollouts import Rollouts


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


class _Run(Rollouts):
    """The state of a simulation: rewards, batches and the learner, and what came of it."""

    def __init__(self, loop: Loop, seed: int) -> None:
        super().__init__(loop, seed)
        self.signal = random.Random(seed + 1)
        self.unfinished: dict[int, int] = {}
        self.scored_at: dict[int, float] = {}
        self.tokens: dict[int, int] = {}
        self.scorers = [0.0] * (loop.reward_workers or 0)
        self.looking = False
        self.batch = 0
        self.learner = SimulatedLearner()
        self.work = 0.0
        """Seconds that the learner needs alone for the batch that it has or gets."""
        self.speed = 1.0
        """Of all that works, over its own when it works alone."""
        self.trained_tokens = 0
        self.staleness: Counter[int] = Counter()
        self.trained = self.dropped = 0

    def run(self, warm_up: int, batches: int) -> Outcome:
        self._fill_soon()
        self._until(warm_up)
        before, since = self._totals(), self.now
        self.staleness.clear()
        self._until(warm_up + batches)
        passed = {name: value - before[name] for name, value in self._totals().items()}
        return self._outcome(passed, batches, self.now - since)

    def _until(self, batches: int) -> None:
        """Go on until so many batches were trained on."""
        queue, shared = self.queue, self.loop.cores is not None
        while self.newest < batches:
            self.now, _, action, arguments = heapq.heappop(queue)
            action(*arguments)
            if shared:
                self._share()

    def _group_started(self, group: int, lengths: Sequence[int]) -> None:
        self.unfinished[group] = len(lengths)
        self.scored_at[group] = 0.0
        self.tokens[group] = sum(lengths)

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
        if self.learner.free is not None and not self.looking:
            self.looking = True
            self._at(self.now, self._train)

    def _train(self) -> None:
        """Begin with the next batch if the learner waits for it and it is there."""
        self.looking = False
        if self.learner.free is None or not self.groups.ready(self.batch):
            return
        self.learner.take(self.now, self.loop.handout)
        tokens = 0
        for group in self.groups.take(self.batch):
            tokens += self.tokens.pop(group)
            self.staleness[self.batch - self.began.pop(group)] += self.loop.group_size
        rollouts = self.loop.groups_per_batch * self.loop.group_size
        self.trained += rollouts
        self.trained_tokens += tokens
        self.work = self.loop.learner.seconds(tokens + self.loop.prompt_tokens * rollouts)
        if self.loop.handout:
            self._at(self.now + self.loop.handout, self._begin)
        else:
            self._begin()

    def _begin(self) -> None:
        """The learner has a batch."""
        if self.loop.colocated:
            for engine in self.engines:
                engine.advance(self.now)
                engine.halted = True
                engine.changes += 1
        self.learner.begin(self.now, self.work)
        self._foresee_update()

    def _foresee_update(self) -> None:
        """Put the end of training into the queue; what was foreseen before no longer holds."""
        self.learner.changes += 1
        self._at(self.learner.next_end(), self._updated, self.learner.changes)

    def _updated(self, changes: int) -> None:
        if changes == self.learner.changes:
            self.learner.trained(self.now, self.loop.publish)
            self._at(self.now + self.loop.publish, self._published)

    def _published(self) -> None:
        self.batch += 1
        self.newest = self.batch
        for engine in self.engines:
            engine.advance(self.now)
            was_halted, engine.halted = engine.halted, False
            if not engine.taking:
                self._fetch(engine)
                if was_halted and not engine.taking:
                    self._foresee(engine)
        self.learner.published(self.now)
        self._train_soon()

    def _share(self) -> None:
        """Slow down or speed up what works on the same cores, if their number has changed."""
        working = sum(engine.working for engine in self.engines) + self.learner.working
        speed = self.loop.speed(working)
        if speed == self.speed:
            return
        self.speed = speed
        for engine in self.engines:
            engine.advance(self.now)
            engine.speed = speed
            self._foresee(engine)
        self.learner.slow(self.now, speed)
        if self.learner.at is not None:
            self._foresee_update()

    # What came of it

    def _totals(self) -> dict[str, float]:
        for engine in self.engines:
            engine.advance(self.now)
        totals = {name: sum(engine.seconds[name] for engine in self.engines) for name in self.engines[0].seconds}
        totals |= {f"learner {name}": value for name, value in self.learner.seconds.items()}
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
