"""The engine's side of a synchronisation: it fetches new weights while it generates, then loads and proves them."""

import queue
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tatara.rl.buffer_link import BufferLink, Event
from tatara.rl.protocol import Probe, PublishedWeights
from tatara.rl.weight_broadcast import WeightReceiver
from tatara.rl.weight_sync import WeightsUnavailableError, compare_probes, load
from tatara.rl.worker_clock import WorkerClock

if TYPE_CHECKING:
    import torch

    from tatara.engine.stepped import SteppedEngine
    from tatara.rl.rollout_task import RolloutTask

OVERDUE_SECONDS = 30.0
"""Time beyond `RolloutTask.sync_seconds` after which what fetches is taken for stuck, on a machine that is gone."""
AGAIN_SECONDS = 0.5
"""Pause before the buffer is asked again for weights that were not to be had."""


@dataclass(frozen=True)
class Synchronised:
    """One update of an engine's weights."""

    version: int
    at: float
    """When it was done, in seconds since the epoch."""
    seconds: float
    """From the news to the acknowledgement's departure."""
    pause: float
    """Part of it in which nothing was generated: loading. The probe runs beside the rollouts."""
    probe: float
    """Part of it in which the probe was computed."""
    difference: float
    """Largest from what the trainer computes for the probe, in nats; 0 where it says nothing."""


class SyncReceiver:
    """Keeps an engine at the newest version; for the worker's own thread.

    Attributes:
        serving: Whether the engine has caught up with what was published when it started.
        done: Every synchronisation so far.
        waiting_for: In words.
    """

    def __init__(
        self,
        task: "RolloutTask",
        engine: "SteppedEngine",
        link: BufferLink,
        events: "queue.SimpleQueue[Event]",
        clock: WorkerClock,
    ) -> None:
        """Ask for what is published at once: a worker that joins late serves the current version only."""
        self._task, self._engine, self._link, self._events, self._clock = task, engine, link, events, clock
        self._threads = ThreadPoolExecutor(1, "fetch")
        self._receiver = WeightReceiver(task.name, task.sync_seconds)
        self._fetched: tuple[PublishedWeights, list[tuple[str, torch.Tensor]]] | None = None
        self._objects: int | None = None
        """Version that the buffer is asked for as objects: this worker takes no part in its broadcast."""
        self._heard = time.monotonic()
        self._again: float | None = time.monotonic()
        self._overdue: float | None = None
        """When the fetch that is under way is given up."""
        self._acknowledged: tuple[int, Probe] | None = None
        self.serving = False
        self.done: list[Synchronised] = []
        self.waiting_for = ""

    @property
    def draining(self) -> bool:
        """Whether rollouts in progress must end before the weights that are here are loaded."""
        return self._fetched is not None and self._task.in_flight == "drain"

    def ready(self, idle: bool) -> bool:
        """Whether `step` has something to do.

        Args:
            idle: Whether no rollout is in progress.
        """
        return self._fetched is not None and (idle or not self.draining)

    def pause(self) -> float:
        """Seconds after which `step` must be called again."""
        due = [each for each in (self._again, self._overdue) if each is not None]
        return max(0.01, min(due) - time.monotonic()) if due else 60.0

    def news(self) -> None:
        """The buffer has other weights than the engine."""
        if self._fetched is None and self._overdue is None and self._again is None and not self._link.asking("weights"):
            self._heard = time.monotonic()
            self._again = self._heard

    def step(self, idle: bool) -> None:
        """Do what is due, between two steps of the engine.

        Args:
            idle: Whether no rollout is in progress.

        Raises:
            EngineError: The weights are not those of the engine's model, or it computes something else with them than
                the trainer.
        """
        if self._overdue is not None and time.monotonic() >= self._overdue:
            self._abandon()
        if self._again is not None and time.monotonic() >= self._again and not self._link.asking("weights"):
            self._again = None
            self._link.ask("weights", self._objects, answered=self._published)
        if self.ready(idle):
            self._load()
        if self._acknowledged is not None and not self._link.asking("acknowledge"):
            (version, probe), self._acknowledged = self._acknowledged, None
            self._link.ask("acknowledge", self._task.name, version, probe, answered=lambda _: None)

    def close(self) -> None:
        """End the thread that fetches."""
        self._receiver.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _published(self, published: PublishedWeights | None) -> None:
        if published is None and self.serving:
            # The buffer was started again, and the learner is asked to publish again.
            self.waiting_for = "the learner to publish its weights again"
            self._again = time.monotonic() + AGAIN_SECONDS
        elif published is None or (self.serving and published.version == self._engine.version):
            self.serving, self.waiting_for = True, ""
        elif not self._receiver.takes_part(published):
            self.waiting_for = f"the weights of version {published.version} as objects"
            self._objects = published.version
            self._again = time.monotonic() + AGAIN_SECONDS
        else:
            self.waiting_for = f"the weights of version {published.version}"
            self._overdue = time.monotonic() + self._task.sync_seconds + OVERDUE_SECONDS
            receiver = self._receiver
            future = self._threads.submit(receiver.receive, published)
            future.add_done_callback(lambda each: self._events.put(lambda: self._arrived(receiver, published, each)))

    def _abandon(self) -> None:
        """Leave a fetch to itself that did not end in its time, and begin anew."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._threads = ThreadPoolExecutor(1, "fetch")
        self._receiver = WeightReceiver(self._task.name, self._task.sync_seconds)
        self._overdue, self._again = None, time.monotonic()

    def _arrived(
        self, receiver: WeightReceiver, published: PublishedWeights, fetched: "Future[list[tuple[str, torch.Tensor]]]"
    ) -> None:
        if receiver is not self._receiver:
            return
        self._overdue = None
        try:
            self._fetched = (published, fetched.result())
        except WeightsUnavailableError as error:
            # Their owner died, or newer ones took their place: the buffer knows which are to be had.
            self.waiting_for = str(error)
            self._again = time.monotonic() + AGAIN_SECONDS

    def _load(self) -> None:
        assert self._fetched is not None
        (published, received), self._fetched = self._fetched, None
        self._clock.switch("sync")
        started = time.monotonic()
        in_flight: Any = "recompute" if self._task.in_flight == "recompute" else "continue"
        if self._task.sleep:
            self._engine.wake()
        loaded, probe = load(self._engine, published, received, in_flight)
        difference = 0.0
        if published.expected:
            told = {self._task.name: probe}
            difference = compare_probes(published.expected, told, published.tolerance, published.version).largest
        ended = time.monotonic()
        taken = (ended - self._heard, loaded, ended - started - loaded)
        self.done.append(Synchronised(published.version, time.time(), *taken, difference))
        self._acknowledged = (published.version, probe)
        self.serving, self.waiting_for = True, ""
