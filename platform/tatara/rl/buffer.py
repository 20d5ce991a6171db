"""The actor between workers and learner: it alone knows the order of prompts, who may start, and who holds what.

Everybody asks it and nobody is called by it; every wait ends when the caller said. What it answers is on disk first, so
it may be killed at any moment: Ray starts it again and it goes on. A call made twice changes nothing the second time.
"""

import os
import time
from collections.abc import Collection, Sequence
from typing import Any

from tatara.config import load
from tatara.errors import ConfigError, TataraError, TrainingError
from tatara.rl.actors import start_buffer
from tatara.rl.changes import Changes
from tatara.rl.ledger import checks, plan
from tatara.rl.ledger.answers import assignment, rollout_at, scored_group, with_prompt
from tatara.rl.ledger.book import Book, BufferConfig
from tatara.rl.ledger.packing import Record, key_of
from tatara.rl.ledger.status import status
from tatara.rl.prompts import read_prompts
from tatara.rl.protocol import BatchReply, Lease, Probe, PublishedWeights
from tatara.rl.record import Prompt, Rollout, RolloutKey, Score

__all__ = ["Buffer", "start_buffer"]


class Buffer:
    """See the module; `start_buffer` makes an actor of it."""

    def __init__(
        self,
        config: dict[str, Any],
        prompts: str,
        directory: str,
        attempt: str,
        held_out: str | None = None,
        first_batch: int = 0,
    ):
        """Read the prompts, and the journal if there is one.

        Args:
            config: Literals of a `BufferConfig`.
            prompts: Path of the prepared prompts.
            directory: Of the journal; it must outlive the actor.
            attempt: Names this start of the driver. Workers of another one are taken for dead.
            held_out: Path of the prepared held-out prompts.
            first_batch: See `Book`.
        """
        self._changes = Changes()
        self._weights: PublishedWeights | None = None
        self._publications = 0
        self._wanted = False
        """Whether a worker needs as objects what was broadcast."""
        self._told: dict[str, int] = {}
        """Publications that each worker was told of."""
        self._polls: dict[str, tuple[int, float]] = {}
        """How often each worker asked, and when it last did, in seconds since the epoch."""
        self._holds: dict[str, int] = {}
        """Version that each worker's engine holds: it may load another one while it waits for an answer."""
        self._fault: TataraError | None = None
        try:
            read = load(BufferConfig, config)
            others = read_prompts(held_out) if held_out is not None else []
            self._book = Book(directory, read, read_prompts(prompts), others, first_batch)
            if self._book.state.attempt != attempt:
                self._commit({"event": "attempt", "attempt": attempt})
        except TataraError as error:
            # An actor whose constructor raises only says that it died; so whoever calls it is told why.
            self._fault = error

    async def lease(
        self, worker: str, version: int, room: int, wait: float, held: Collection[RolloutKey] | None = None
    ) -> Lease:
        """Rollouts for a worker to generate.

        Args:
            worker: Its name.
            version: Of the policy that its engine holds.
            room: Rollouts that it can take.
            wait: Seconds to wait for some at most; a newer version ends the wait too.
            held: Keys of all rollouts that it was given and has not delivered. What the buffer thinks it holds besides,
                since an answer was lost or the worker is a new one under the name, is handed out again. Without it,
                only `release` frees them.

        Raises:
            TrainingError: Nobody published that version.
        """
        self._check()
        state = self._book.state
        self._commit(plan.lost(state, worker, None if held is None else [key_of(key) for key in held]))
        question = self._ask(worker)
        self._holds[worker] = version

        def ready() -> Lease | None:
            if state.stopped or self._is_over(worker, question):
                return Lease((), self._newest, state.stopped)
            holds = self._holds[worker]
            event = plan.lease(state, self._book.settings, worker, holds, room, time.time())
            self._commit(event)
            news = self._publications > self._told.get(worker, 0) and holds != self._newest
            if event is None and not news:
                return None
            groups = tuple(assignment(self._book, *group) for group in event["groups"]) if event else ()
            self._told[worker] = self._publications
            return Lease(groups, self._newest, False)

        return await self._changes.until(ready, wait) or Lease((), self._newest, False)

    async def deliver(self, worker: str, rollouts: Sequence[Rollout]) -> None:
        """Finished rollouts; those that are there already, or that came too late, are ignored.

        Raises:
            TrainingError: A rollout is not one that was asked for; none of them is taken.
        """
        self._check()
        book = self._book
        self._commit(checks.deliver(book.state, worker, rollouts, book.prompts, book.held_out, time.time()))

    async def lease_scoring(
        self, worker: str, room: int, wait: float, held: Collection[RolloutKey] | None = None
    ) -> list[tuple[Prompt, Rollout]]:
        """Rollouts for a reward worker to score, see `lease`; none: none came before the wait or the run was over."""
        self._check()
        state = self._book.state
        self._commit(plan.lost_scoring(state, worker, None if held is None else [key_of(key) for key in held]))
        question = self._ask(worker)

        def ready() -> list[tuple[Prompt, Rollout]] | None:
            if state.stopped or self._is_over(worker, question):
                return []
            event = plan.scoring(state, worker, room, time.time())
            self._commit(event)
            return [rollout_at(self._book, *key) for key in event["keys"]] if event else None

        return await self._changes.until(ready, wait) or []

    async def scored(self, worker: str, scores: Sequence[Score]) -> None:
        """What the rewards say; scores that are there already, or that came too late, are ignored.

        Raises:
            TrainingError: A score is not of a rollout that was generated; none of them is taken.
        """
        self._check()
        self._commit(checks.score(self._book.state, worker, scores, time.time()))

    async def batch(self, number: int, wait: float) -> BatchReply:
        """The groups of a rollout batch: for one number the same groups, however often it is asked for.

        Args:
            number: The next one, or one that was handed out and is in no checkpoint.
            wait: Seconds at most.

        Raises:
            TrainingError: There is no such batch, or the run cannot go on, with why.
        """
        self._check()

        def ready() -> BatchReply | None:
            book = self._book
            groups = plan.handed_out(book.state, book.settings, number)
            if groups is None:
                # What is handed out must survive the machine: a checkpoint will hold what was made of it.
                self._commit(plan.batch(book.state, book.settings, number, time.time()), sync=True)
                groups = book.state.batches.get(number)
            republish = book.state.published and (self._weights is None or self._wanted)
            if groups is None and not republish:
                return None
            return BatchReply(
                None if groups is None else tuple(scored_group(self._book, group) for group in groups), republish
            )

        return await self._changes.until(ready, wait) or BatchReply(None, False)

    async def publish(self, version: int, weights: PublishedWeights) -> None:
        """New weights of the policy for all workers; the former ones are let go.

        Raises:
            TrainingError: The two versions differ.
        """
        self._check()
        if version != weights.version:
            raise TrainingError(f"weights of version {weights.version} were published as version {version}")
        self._commit({"event": "publish", "version": version})
        self._weights, self._wanted = weights, False
        self._publications += 1
        self._changes.tell()

    async def weights(self, objects: int | None = None) -> PublishedWeights | None:
        """What was published last; None: nothing, or it was lost and the learner has been asked for it.

        Args:
            objects: Version whose broadcast the caller cannot take part in: the learner is asked for objects.
        """
        self._check()
        found = self._weights
        if found is not None and found.meeting is not None and found.version == objects and not self._wanted:
            self._wanted = True
            self._changes.tell()
        return found

    async def acknowledge(self, worker: str, version: int, probe: Probe) -> None:
        """A worker's engine holds a version, and computes these log-probabilities with it."""
        self._check()
        found = [list(values) for values in probe.logprobs]
        self._holds[worker] = version
        self._commit(
            {"event": "acknowledge", "worker": worker, "version": version, "logprobs": found, "at": time.time()}
        )

    async def probes(self, version: int) -> dict[str, Probe]:
        """What each worker computed with a version, if that is the one published last."""
        self._check()
        found = self._book.state.probes.get(version, {})
        return {worker: Probe(tuple(tuple(values) for values in probe)) for worker, probe in found.items()}

    async def release(self, worker: str) -> None:
        """A worker died: what it held is handed out again, but for what it delivered."""
        self._check()
        if worker in self._book.state.workers:
            self._commit({"event": "release", "worker": worker, "keys": None})

    async def evaluate(self, version: int) -> None:
        """Have the held-out prompts answered by a version, or a later one if it comes first; once for each version.

        Raises:
            ConfigError: There are no held-out prompts.
        """
        self._check()
        if self._book.settings.held_out is None:
            raise ConfigError("an evaluation was asked for, but no held-out prompts are configured: set held_out")
        if version not in self._book.state.evaluations:
            self._commit({"event": "evaluate", "version": version})

    async def checkpointed(self, number: int) -> None:
        """Batches below a number are in a checkpoint: their rollouts may be forgotten.

        Raises:
            TrainingError: A batch below it was not handed out.
        """
        self._check()
        if number > self._book.state.next_batch:
            raise TrainingError(
                f"a checkpoint before batch {number} was reported, but batch {self._book.state.next_batch} was not "
                "handed out: report the batch that training goes on with"
            )
        self._book.checkpointed(number)

    async def status(self, since: int = 0) -> dict[str, Any]:
        """Counts, workers, leases and what is new; see `tatara.rl.ledger.status.status`.

        Args:
            since: ``noted`` of the last answer; only later batches, evaluations and transcripts are in ``notes``.
        """
        self._check()
        book, now = self._book, time.time()
        found = status(book.state, book.settings, since, now)
        found["notes"] = [with_prompt(book, note) for note in found["notes"]]
        for worker, (_, asked) in self._polls.items():
            if worker in found["workers"]:
                shown = found["workers"][worker]
                shown["idle_s"] = min(shown["idle_s"], max(0.0, now - asked))
        return found | {
            "pid": os.getpid(),
            "journal_bytes": book.journal.bytes,
            "weights": None if self._weights is None else self._weights.version,
            "objects_wanted": self._wanted,
            "probed": {version: sorted(probes) for version, probes in book.state.probes.items()},
        }

    async def fail(self, reason: str) -> None:
        """The run cannot go on: whoever asks for another batch is told why, until the driver is started anew."""
        self._check()
        if self._book.state.failed is None:
            self._commit({"event": "fail", "reason": reason})

    async def stop(self) -> None:
        """The run is over: every worker that asks is told to leave."""
        self._check()
        if not self._book.state.stopped:
            self._commit({"event": "stop"})

    @property
    def _newest(self) -> int:
        return self._book.state.newest

    def _check(self) -> None:
        if self._fault is not None:
            raise self._fault

    def _ask(self, worker: str) -> int:
        """Note that a worker asks; returns the number of the question."""
        number = self._polls.get(worker, (0, 0.0))[0] + 1
        self._polls[worker] = number, time.time()
        return number

    def _is_over(self, worker: str, question: int) -> bool:
        """Whether the worker gave up waiting for this answer, and asks again."""
        return self._polls[worker][0] != question

    def _commit(self, event: Record | None, sync: bool = False) -> None:
        if event is not None:
            self._book.commit(event, sync=sync)
            self._changes.tell()
