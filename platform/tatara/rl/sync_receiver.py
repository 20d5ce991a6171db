"""The engine's side of a synchronisation: it fetches new weights while it generates, then loads and proves them."""

import queue
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tatara.rl.buffer_link import BufferLink, Event
from tatara.rl.protocol import Probe, PublishedWeights
from tatara.rl.weight_sync import WeightsUnavailableError, compare_probes, fetch, load
from tatara.rl.worker_clock import WorkerClock

if TYPE_CHECKING:
    import numpy as np

    from tatara.engine.stepped import SteppedEngine
    from tatara.rl.rollout_task import RolloutTask

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
        self._fetched: tuple[PublishedWeights, list[np.ndarray]] | None = None
        self._heard = time.monotonic()
        self._again: float | None = time.monotonic()
        self._fetching = False
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
        return 60.0 if self._again is None else max(0.01, self._again - time.monotonic())

    def news(self) -> None:
        """The buffer has other weights than the engine."""
        if self._fetched is None and not self._fetching and self._again is None and not self._link.asking("weights"):
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
        if self._again is not None and time.monotonic() >= self._again and not self._link.asking("weights"):
            self._again = None
            self._link.ask("weights", answered=self._published)
        if self.ready(idle):
            self._load()
        if self._acknowledged is not None and not self._link.asking("acknowledge"):
            (version, probe), self._acknowledged = self._acknowledged, None
            self._link.ask("acknowledge", self._task.name, version, probe, answered=lambda _: None)

    def close(self) -> None:
        """End the thread that fetches."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _published(self, published: PublishedWeights | None) -> None:
        if published is None and self.serving:
            # The buffer was started again, and the learner is asked to publish again.
            self.waiting_for = "the learner to publish its weights again"
            self._again = time.monotonic() + AGAIN_SECONDS
        elif published is None or (self.serving and published.version == self._engine.version):
            self.serving, self.waiting_for = True, ""
        else:
            self.waiting_for = f"the weights of version {published.version}"
            self._fetching = True
            future = self._threads.submit(fetch, published, self._task.sync_seconds)
            future.add_done_callback(lambda each: self._events.put(lambda: self._arrived(published, each.result)))

    def _arrived(self, published: PublishedWeights, result: "Callable[[], list[np.ndarray]]") -> None:
        self._fetching = False
        try:
            self._fetched = (published, result())
        except WeightsUnavailableError as error:
            # Their owner died, or newer ones took their place: the buffer knows which are to be had.
            self.waiting_for = str(error)
            self._again = time.monotonic() + AGAIN_SECONDS

    def _load(self) -> None:
        assert self._fetched is not None
        (published, buckets), self._fetched = self._fetched, None
        self._clock.switch("sync")
        started = time.monotonic()
        in_flight: Any = "recompute" if self._task.in_flight == "recompute" else "continue"
        if self._task.sleep:
            self._engine.wake()
        loaded, probe = load(self._engine, published, buckets, in_flight)
        if published.expected:
            name = self._task.name
            compare_probes(published.expected, {name: probe}, published.tolerance, published.version)
        ended = time.monotonic()
        self.done.append(
            Synchronised(published.version, time.time(), ended - self._heard, loaded, ended - started - loaded)
        )
        self._acknowledged = (published.version, probe)
        self.serving, self.waiting_for = True, ""
