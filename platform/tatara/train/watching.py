"""A rank's eyes: hang guard, step clock, stragglers, speed and statistics, put together for the training loop."""

import contextlib
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from tatara.model.experts import expert_similarity
from tatara.model.spec import ModelSpec
from tatara.train.engine import Engine
from tatara.train.settings import WatchSettings
from tatara.train.watch import stragglers
from tatara.train.watch.flops import DocumentLoad, device_peak, speed
from tatara.train.watch.hang import HangGuard
from tatara.train.watch.statistics import Statistics
from tatara.train.watch.stragglers import StepClock, Stragglers


class Watch:
    """Watches one rank. `look` and the constructor are collective over all ranks."""

    def __init__(
        self,
        engine: Engine,
        settings: WatchSettings,
        directory: Path,
        say: Callable[..., None],
        events: Path,
        *,
        fp8: bool = False,
    ) -> None:
        """Measure the device, and tell ranks where to leave what they find.

        Args:
            engine: Whose statistics are taken.
            settings: How closely to look.
            directory: Shared by all ranks, for what a hang leaves.
            say: Writes an event; does nothing but on rank 0.
            events: Where the hang guard writes its event, on whatever rank it is.
            fp8: Whether matrix products run in FP8, whose peak the speed is then compared with.
        """
        self._engine, self._settings, self._say = engine, settings, say
        self._clock = StepClock()
        engine.waiting = self._clock.waiting
        self._peak = device_peak(engine.device, getattr(torch, engine.spec.dtype), fp8)
        world = dist.get_world_size()
        hosts: list[Any] = [None] * world
        dist.all_gather_object(hosts, socket.gethostname())
        self._stragglers = Stragglers(settings.stragglers, hosts)
        self._statistics = Statistics(engine.chunks, engine.device, settings.interval)
        attempt: list[Any] = [_attempt(directory) if dist.get_rank() == 0 else None]
        dist.broadcast_object_list(attempt, src=0)
        self._hang = HangGuard(
            settings.hang_seconds,
            directory,
            dist.get_rank(),
            world,
            first_limit_seconds=settings.start_seconds,
            attempt=str(attempt[0]),
            events=events,
        )

    def start(self, step: int) -> None:
        """Watch from now on."""
        self._hang.start()
        self._hang.beat(step, "start")

    def close(self) -> None:
        """Watch no longer."""
        self._hang.close()

    def beat(self, step: int, where: str) -> None:
        """Say what comes next."""
        self._hang.beat(step, where)

    @contextlib.contextmanager
    def step(self, step: int) -> Iterator[None]:
        """Around a training step."""
        self._hang.beat(step + 1, "forward and backward")
        if self._statistics.due(step + 1):
            self._statistics.before()
        with self._clock.step():
            yield
        self._hang.beat(step + 1, "between steps")

    def loading(self) -> contextlib.AbstractContextManager[None]:
        """Around what waits for data."""
        return self._clock.loading()

    def figures(self, spec: ModelSpec, load: DocumentLoad, seconds: float) -> dict[str, float]:
        """Speed and waiting of the last step, for its event."""
        found = speed(spec, load, seconds, dist.get_world_size(), self._peak)
        return {**found.figures(), "data_wait_seconds": self._clock.last_data_seconds}

    def look(self, step: int) -> None:
        """Look at all ranks and at the model, if it is time to."""
        if step % self._settings.stragglers.every == 0:
            for slow in self._stragglers.look(stragglers.gather(self._clock.take(), self._engine.device)):
                self._say("straggler", step=step, **vars(slow), line=slow.line())
        if self._statistics.due(step):
            found = self._statistics.after().event()
            if self._engine.spec.moe is not None:
                found["expert_similarity"] = expert_similarity(self._engine.chunks)
            self._say("statistics", step=step, **found)


def _attempt(directory: Path) -> int:
    """A number that no attempt before has used."""
    directory.mkdir(parents=True, exist_ok=True)
    number = 0
    while True:
        try:
            (directory / f"attempt-{number}").touch(exist_ok=False)
        except FileExistsError:
            number += 1
            continue
        return number
