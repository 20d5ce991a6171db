"""Engines of the model that pull groups as staleness admits them, and take new weights."""

import heapq
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from tatara.rl.simulation.engines import SimulatedEngine
from tatara.rl.simulation.grouping import Groups
from tatara.rl.simulation.loop import Loop, drawn
from tatara.rl.staleness import deadline


class Rollouts(ABC):
    """The half of a simulation that generates, and its queue of events."""

    def __init__(self, loop: Loop, seed: int) -> None:
        """Everything stands still; see `tatara.rl.simulation.events.simulate` for the arguments."""
        self.loop = loop
        self.now = 0.0
        self.queue: list[tuple[float, int, Callable[..., None], tuple[int, ...]]] = []
        self.number = 0
        self.lengths = drawn(loop.lengths, loop.group_size, seed)
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
        self.filling = False
        self.started = 0
        """Rollouts."""

    @abstractmethod
    def _group_started(self, group: int, lengths: Sequence[int]) -> None:
        """A group was admitted; its responses will have these lengths."""

    @abstractmethod
    def _score(self, group: int) -> None:
        """A rollout of a group is generated."""

    def _at(self, time: float, action: Callable[..., None], *arguments: int) -> None:
        self.number += 1
        heapq.heappush(self.queue, (time, self.number, action, arguments))

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
        draining = self.loop.in_flight == "drain" and engine.due
        if engine.halted or engine.taking or draining:
            return 0
        return self.loop.concurrency - len(engine.running)

    def _hand_out(self, engine: SimulatedEngine) -> bool:
        """Give an engine with room the next group, or the part of it for which there is room; whether there was one."""
        if self.partly is None:
            if self.admitted >= engine.limit:
                return False
            group = self.next_group
            lengths = self.lengths.of(group)
            self.next_group += 1
            self.admitted += 1
            self.began[group] = engine.version
            self._group_started(group, lengths)
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
        if self.loop.in_flight == "drain" and engine.due and not engine.running:
            self._take_weights(engine)
            return
        while self._room(engine) > 0 and self._hand_out(engine):
            pass
        self._foresee(engine)

    def _fetch(self, engine: SimulatedEngine) -> None:
        """Get the newest version; the engine goes on meanwhile."""
        if not self.loop.fetch:
            engine.due = True
            self._take_weights(engine)
        elif not engine.fetching:
            engine.fetching = True
            self._at(self.now + self.loop.fetch, self._fetched, engine.number)

    def _fetched(self, number: int) -> None:
        engine = self.engines[number]
        engine.fetching, engine.due = False, engine.version < self.newest
        if engine.due and not engine.taking:
            self._take_weights(engine)

    def _take_weights(self, engine: SimulatedEngine) -> None:
        """Pause and load the newest version; where responses must not see two, once they are done."""
        engine.advance(self.now)
        if self.loop.in_flight == "drain" and engine.running:
            return
        engine.taking, engine.due = True, False
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
        engine.due = engine.due and version < self.newest
        if engine.due:
            self._take_weights(engine)
        elif version < self.newest:
            self._fetch(engine)
        if not engine.taking:
            self._foresee(engine)
        if self.loop.lease:
            self._at(self.now + self.loop.lease, self._fill_soon)
        else:
            self._fill_soon()
