"""The driver's view of a training run: the trainer's events as progress, metrics and log lines."""

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

from tatara.stage import StageRun
from tatara.train.pretrain import PretrainConfig
from tatara.train.pretrain_worker import EVENTS
from tatara.train.watch.events import EventReader

_POLL_SECONDS = 0.3
_SERIES = ("step", "validation")


class Follower:
    """Turns the events of the trainer into progress, metrics and log lines, and remembers what the summary needs."""

    def __init__(self, stage_run: StageRun, config: PretrainConfig) -> None:
        """Skip what an earlier run of this stage has already told."""
        self._run, self._config = stage_run, config
        self._reader = EventReader(stage_run.work / EVENTS)
        earlier = self._reader.read()
        self._told = {kind: max((e["step"] for e in earlier if e["kind"] == kind), default=0) for kind in _SERIES}
        self.speeds: list[float] = [e["tokens"] / e["seconds"] for e in earlier if e["kind"] == "step"]
        self.blocked: list[float] = [e["blocked_seconds"] for e in earlier if e["kind"] == "checkpoint"]
        self.first_step_time: float | None = None
        self.starts = 0

    def poll(self) -> None:
        """Handle the events since the last call."""
        for event in self._reader.read():
            getattr(self, f"_on_{event['kind']}")(event)

    @contextlib.contextmanager
    def following(self) -> Iterator[None]:
        """Handle events from another thread while the block runs, and those that are left when it ends."""
        done = threading.Event()
        failed: list[BaseException] = []

        def follow() -> None:
            try:
                while not done.wait(_POLL_SECONDS):
                    self.poll()
                self.poll()
            except Exception as error:
                failed.append(error)

        thread = threading.Thread(target=follow, name="follow-training", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
        if failed:
            raise failed[0]

    def _on_started(self, event: dict[str, Any]) -> None:
        self._count_start()

    def _on_resumed(self, event: dict[str, Any]) -> None:
        self._count_start()
        self._run.log(f"continues from the checkpoint of step {event['step']}")

    def _on_log(self, event: dict[str, Any]) -> None:
        self._run.log(event["message"])

    def _on_step(self, event: dict[str, Any]) -> None:
        speed = event["tokens"] / event["seconds"]
        if self.first_step_time is None:
            self.first_step_time = event["time"]
        self.speeds.append(speed)
        self._run.progress(event["step"], self._config.steps, "steps", loss=event["loss"], tokens_per_second=speed)
        self._tell(
            event,
            loss=event["loss"],
            learning_rate=event["learning_rate"],
            gradient_norm=event["gradient_norm"],
            tokens_per_second=speed,
        )

    def _on_validation(self, event: dict[str, Any]) -> None:
        if self._tell(event, validation_loss=event["validation_loss"]):
            self._run.log(f"step {event['step']}: validation loss {event['validation_loss']:.4f}")

    def _on_checkpoint(self, event: dict[str, Any]) -> None:
        self.blocked.append(event["blocked_seconds"])
        self._run.log(
            f"checkpoint of step {event['step']} written in {event['seconds']:.1f} s, "
            f"{event['blocked_seconds']:.2f} s of it without training"
        )

    def _count_start(self) -> None:
        self.starts += 1
        if self.starts > 1:
            self._run.log(f"workers failed and were started again ({self.starts - 1} of {self._config.max_failures})")

    def _tell(self, event: dict[str, Any], **values: float) -> bool:
        """Record a point of a series once, though steps are repeated after a restart."""
        if event["step"] <= self._told[event["kind"]]:
            return False
        self._told[event["kind"]] = event["step"]
        self._run.metrics(event["step"], **{f"train.{name}": value for name, value in values.items()})
        return True
