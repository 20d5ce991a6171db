"""The actor that generates: an engine of its own, which asks the buffer for work and never waits for the answer."""

import os
import queue
import time
import zlib
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tatara.engine.config import EngineConfig
from tatara.errors import EngineError
from tatara.rl.actors import start_rollout_worker
from tatara.rl.buffer_link import BufferLink, Event
from tatara.rl.conversation_turns import Conversation
from tatara.rl.environments.config import read_environments
from tatara.rl.protocol import Lease
from tatara.rl.record import Finish, Rollout, RolloutKey
from tatara.rl.rollout_task import RolloutTask
from tatara.rl.sync_receiver import SyncReceiver
from tatara.rl.worker_clock import WorkerClock

if TYPE_CHECKING:
    from tatara.chat import Renderer
    from tatara.engine.stepped import Finished, SteppedEngine
    from tatara.rl.environments.environment import Environment, Reply

__all__ = ["RolloutTask", "RolloutWorker", "start_rollout_worker"]

LEASE_SECONDS = 5.0
"""Longest single wait for work."""
FULL_SECONDS = 0.2
"""The same while there is no room: the question then only tells whether there are new weights, and room comes soon."""
ROOM_SHARE = 8
"""Work is asked for once this part of the room is free: asking for every single one would cost more than it brings."""
ENVIRONMENT_THREADS = 8
LOOK_SECONDS = 1.0
"""Pause between looks at how long environments take."""
LENGTHS = 2_000
"""Newest rollouts whose lengths are remembered, and newest deliveries whose times are."""


class RolloutWorker:
    """See the module. `run` is called once; `status` may be called at any time."""

    def __init__(self, task: RolloutTask) -> None:
        """Keep what to do: the engine starts in `run`, so that its errors reach whoever waits for that."""
        self._task = task
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._clock = WorkerClock()
        self._waiting: deque[Conversation] = deque()
        self._active: dict[str, Conversation] = {}
        self._answering: dict[str, float] = {}
        self._undelivered: dict[RolloutKey, Rollout] = {}
        self._rollouts = 0
        self._lengths: deque[int] = deque(maxlen=LENGTHS)
        self._deliveries: deque[float] = deque(maxlen=LENGTHS)
        self._leased_at = 0.0
        self._over = False
        self._engine: SteppedEngine
        self._sync: SyncReceiver

    def status(self, since: float = 0.0, measured: float = 0.0) -> dict[str, Any]:
        """What the worker did so far.

        Args:
            since: Only spans that ended after it, in seconds since the epoch.
            measured: Only paces that ended after it.

        Returns:
            ``seconds`` by cause (see `WorkerClock`), ``spans`` as (start, end, cause), ``paces`` as (start, end, steps,
            tokens), ``tokens`` sampled, ``rollouts`` finished, rollouts in progress, the version held, of each
            synchronisation the pause it made, ``lengths``: tokens that the model sampled in the last rollouts, and
            ``deliver_seconds``: from sending rollouts to having the buffer's answer, mean.
        """
        engine = getattr(self, "_engine", None)
        sync = getattr(self, "_sync", None)
        return {
            "name": self._task.name,
            "pid": os.getpid(),
            "version": self._task.version if engine is None else engine.version,
            "seconds": self._clock.seconds(),
            "spans": [(span.start, span.end, span.what) for span in self._clock.spans(since)],
            "paces": [(pace.start, pace.end, pace.steps, pace.tokens) for pace in self._clock.paces(measured)],
            "lengths": list(self._lengths),
            "deliver_seconds": sum(list(self._deliveries)) / max(1, len(self._deliveries)),
            "tokens": 0 if engine is None else engine.generated,
            "rollouts": self._rollouts,
            "running": len(self._active),
            "waiting": len(self._waiting),
            "answering": len(self._answering),
            "syncs": [] if sync is None else list(sync.done),
            "waiting_for": "the engine's start" if sync is None else sync.waiting_for,
        }

    def run(self) -> int:
        """Generate until the buffer says that the run is over.

        Returns:
            Rollouts finished.

        Raises:
            EngineError: The engine does not start, a prompt is too long, the buffer is gone, or weights do not fit.
            TrainingError: An environment failed, or the buffer refused what was said to it.
        """
        self._start()
        while not self._over:
            pause = self._link.check()
            self._check_environments()
            self._take_events(pause)
            if self._over:
                break
            self._sync.step(idle=not self._active)
            self._begin()
            self._ask()
            if self._engine.running:
                self._clock.switch("generate")
                before = self._engine.generated
                for finished in self._engine.step():
                    self._ended(finished)
                self._clock.stepped(self._engine.generated - before)
            self._deliver()
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._sync.close()
        self._engine.shutdown()
        return self._rollouts

    def _start(self) -> None:
        from tatara.engine.stepped import SteppedEngine

        task = self._task
        self._environments: Mapping[str, Environment] = {}
        self._renderer: Renderer | None = None
        if task.environments:
            from tatara.chat import Renderer as ChatRenderer
            from tatara.rl.environments.make import make_environments

            self._environments = make_environments(read_environments(task.environments))
            self._renderer = ChatRenderer(task.model)
        self._threads = ThreadPoolExecutor(ENVIRONMENT_THREADS, "environment")
        self._link = BufferLink(task.buffer, task.patience, self._events)
        config = EngineConfig(**task.engine)
        if config.max_num_seqs is None:
            config = config.model_copy(update={"max_num_seqs": task.concurrent})
        engine = SteppedEngine.start(Path(task.model), config, cuda=task.cuda, version=task.version)
        self._sync = SyncReceiver(task, engine, self._link, self._events, self._clock)
        self._engine = engine

    def _take_events(self, pause: float) -> None:
        """Deal with what happened; wait for it only if there is nothing to generate."""
        if not self._engine.running and not self._sync.ready(idle=not self._active):
            self._clock.switch("environment" if self._answering else "wait")
            self._doze()
            # A hanging environment shows only when somebody looks.
            pause = min(pause, self._sync.pause(), LOOK_SECONDS if self._answering else pause)
            try:
                self._events.get(timeout=pause)()
            except queue.Empty:
                return
        while not self._over:
            try:
                event = self._events.get_nowait()
            except queue.Empty:
                return
            event()

    def _doze(self) -> None:
        if self._task.sleep and not self._active and not self._waiting and self._events.empty():
            self._engine.sleep()

    def _ask(self) -> None:
        """Ask for work when there is room for some, and now and then for news."""
        task = self._task
        if self._link.asking("lease") or not self._sync.serving:
            return
        room = task.concurrent - len(self._active) - len(self._waiting)
        if room < max(1, task.concurrent // ROOM_SHARE):
            if time.monotonic() - self._leased_at < FULL_SECONDS:
                return
            room = 0
        held = [conversation.key for conversation in (*self._active.values(), *self._waiting)]
        held += self._undelivered
        wait = LEASE_SECONDS if room else FULL_SECONDS
        version = self._engine.version
        self._link.ask("lease", task.name, version, room, wait, held, answered=self._leased, wait=wait)

    def _leased(self, lease: Lease) -> None:
        self._leased_at = time.monotonic()
        if lease.stop:
            self._over = True
            return
        if lease.newest != self._engine.version:
            self._sync.news()
        now = time.time()
        for group in lease.groups:
            for index in group.indices:
                made = Conversation(
                    group.key(index), group.prompt, group.sampling, group.environment, self._engine.max_model_len, now
                )
                if made.room < 1:
                    raise EngineError(
                        f"prompt '{group.prompt.id}' of '{group.prompt.source}' has {len(group.prompt.token_ids)} "
                        f"tokens, the engine's context {made.context}: leave it out, or raise max_model_len"
                    )
                self._waiting.append(made)

    def _begin(self) -> None:
        """Start what was leased; not while rollouts have to end first."""
        if self._sync.draining or not self._waiting:
            return
        if self._task.sleep:
            self._engine.wake()
        while self._waiting:
            conversation = self._waiting.popleft()
            conversation.started = time.time()
            self._active[_name(conversation.key)] = conversation
            self._submit(_name(conversation.key), conversation)

    def _submit(self, name: str, conversation: Conversation) -> None:
        seed = self._task.seed
        if seed is not None:
            # Of the rollout's own name and place, so that a repeated attempt draws the same.
            seed = zlib.crc32(f"{seed} {name} {len(conversation.response_ids)}".encode())
        self._engine.submit(name, conversation.token_ids, conversation.drawing(), seed)

    def _ended(self, finished: "Finished") -> None:
        """A turn of the model is over."""
        conversation = self._active[finished.request_id]
        conversation.add_turn(finished)
        if conversation.environment is None or finished.finish == "length":
            self._finish(finished.request_id, finished.finish)
            return
        assert self._renderer is not None
        environment = self._environments[conversation.environment]
        said = finished.token_ids[:-1] if finished.finish == "stop" else finished.token_ids
        turn, before, name = self._renderer.decode(said), tuple(conversation.turns), finished.request_id
        conversation.turns.append(turn)
        self._answering[name] = time.monotonic()
        future = self._threads.submit(environment.reply, conversation.prompt, before, turn)
        future.add_done_callback(lambda each: self._events.put(lambda: self._answered(name, each.result)))

    def _answered(self, name: str, result: "Callable[[], Reply | None]") -> None:
        """An environment has answered; what it raised is raised here."""
        del self._answering[name]
        reply, conversation = result(), self._active[name]
        if reply is None or reply.finish is not None:
            self._finish(name, "stop" if reply is None or reply.finish is None else reply.finish)
            return
        assert self._renderer is not None
        # No room for the answer and a word on it: cut off where the model was.
        if conversation.add_reply(self._renderer.reply_ids(reply.messages)):
            self._submit(name, conversation)
        else:
            self._finish(name, "length")

    def _check_environments(self) -> None:
        limit = self._task.environment_seconds
        if self._answering and time.monotonic() - min(self._answering.values()) > limit:
            name = min(self._answering, key=self._answering.__getitem__)
            conversation = self._active[name]
            raise EngineError(
                f"environment '{conversation.environment}' did not answer prompt '{conversation.prompt.id}' within "
                f"{limit:g} s: give it a time limit of its own"
            )

    def _finish(self, name: str, finish: Finish) -> None:
        conversation = self._active.pop(name)
        self._undelivered[conversation.key] = conversation.rollout(finish, self._task.name, time.time())
        self._rollouts += 1
        if conversation.key.purpose == "train":
            self._lengths.append(sum(conversation.loss_mask))

    def _deliver(self) -> None:
        """Send what is finished; while the buffer writes one batch down, the next one gathers."""
        if not self._undelivered or self._link.asking("deliver"):
            return
        batch, asked = list(self._undelivered.values()), time.monotonic()

        def delivered(_: None) -> None:
            self._deliveries.append(time.monotonic() - asked)
            for rollout in batch:
                del self._undelivered[rollout.key]
            self._deliver()

        self._link.ask("deliver", self._task.name, batch, answered=delivered)


def _name(key: RolloutKey) -> str:
    return f"{key.purpose} {key.round} {key.position} {key.index}"
