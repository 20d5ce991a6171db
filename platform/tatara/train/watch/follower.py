"""The driver's view of a training run: the trainer's events as progress, metrics, log lines and report data."""

import contextlib
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

from tatara.stage import StageRun
from tatara.train.settings import TrainingSettings
from tatara.train.task import EVENTS
from tatara.train.watch.events import EventReader, EventWriter
from tatara.train.watch.timeline import Timeline

_POLL_SECONDS = 0.3
_SERIES = ("step", "validation", "statistics")
_STEP_FIGURES = ("loss", "learning_rate", "gradient_norm", "tflops_per_device", "mfu", "data_wait_seconds")
_ROUTER_FIGURES = ("violation", "entropy", "dead_experts")
_KEPT = 200
"""Guard actions, stragglers, hangs and checkpoints that a report shows, each; the last ones."""


class Follower:
    """Turns the events of the trainer into progress, metrics and log lines, and remembers what the summary needs."""

    def __init__(self, stage_run: StageRun, config: TrainingSettings) -> None:
        """Skip what an earlier run of this stage has already told, and mark the begin of this one."""
        self._run, self._config = stage_run, config
        path = stage_run.work / EVENTS
        self._reader = EventReader(path)
        self.timeline = Timeline()
        self.speeds: list[float] = []
        self.blocked: list[float] = []
        self.first_step_time: float | None = None
        self.starts = 0
        self._kept: dict[str, list[dict[str, Any]]] = {"guard": [], "straggler": [], "hang": [], "checkpoint": []}
        self._router: dict[str, Any] | None = None
        self._told = dict.fromkeys(_SERIES, 0)
        for event in self._reader.read():
            self._remember(event)
            if event["kind"] in _SERIES:
                self._told[event["kind"]] = max(self._told[event["kind"]], event["step"])
        writer = EventWriter(path)
        writer.write("run")
        writer.close()

    def poll(self) -> None:
        """Handle the events since the last call; a kind that has no handler only counts for the account of time."""
        for event in self._reader.read():
            self._remember(event)
            handle = getattr(self, f"_on_{event['kind']}", None)
            if handle is not None:
                handle(event)

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

    def report(self) -> None:
        """Hand to the run report what it shows of training; see `tatara.tracking.training_sections`."""
        self._run.report("time_account", self.timeline.account(time.time()).report())
        for kind, key in (("guard", "guard"), ("straggler", "stragglers"), ("hang", "hangs")):
            if self._kept[kind]:
                self._run.report(key, self._kept[kind])
        if self._kept["checkpoint"]:
            self._run.report("checkpoints", self._kept["checkpoint"])
        if self._router is not None:
            self._run.report("router", self._router)

    def _remember(self, event: Mapping[str, Any]) -> None:
        self.timeline.add(event)
        kind = event["kind"]
        if kind == "step":
            self.speeds.append(event["tokens"] / event["seconds"])
        if kind == "checkpoint":
            self.blocked.append(event["blocked_seconds"])
        if kind in self._kept:
            kept = self._kept[kind]
            kept.append({name: value for name, value in event.items() if name != "kind"})
            del kept[:-_KEPT]
        if kind == "statistics" and "router" in event:
            self._router = {"step": event["step"], **event["router"]}

    def _on_started(self, event: dict[str, Any]) -> None:
        self._count_start()

    def _on_resumed(self, event: dict[str, Any]) -> None:
        self._count_start()
        self._run.log(f"continues from the checkpoint of step {event['step']}")

    def _on_log(self, event: dict[str, Any]) -> None:
        self._run.log(event["message"])

    def _on_step(self, event: dict[str, Any]) -> None:
        if self.first_step_time is None:
            self.first_step_time = event["time"]
        figures = {"loss": event["loss"], "tokens_per_second": self.speeds[-1]}
        if "mfu" in event:
            figures["MFU"] = f"{event['mfu']:.1%}"
        self._run.progress(event["step"], self._config.steps, "steps", **figures)
        values = {name: event[name] for name in _STEP_FIGURES if name in event}
        self._tell(event, {**values, "tokens_per_second": self.speeds[-1]})

    def _on_validation(self, event: dict[str, Any]) -> None:
        losses = {name: value for name, value in event.items() if name.partition(".")[0] == "validation_loss"}
        if self._tell(event, losses):
            parts = [f"{name.partition('.')[2]} {loss:.4f}" for name, loss in losses.items() if "." in name]
            more = f" ({', '.join(parts)})" if parts else ""
            self._run.log(f"step {event['step']}: validation loss {event['validation_loss']:.4f}{more}")

    def _on_statistics(self, event: dict[str, Any]) -> None:
        values = {f"parameter_norm.{kind}": norm for kind, norm in event["parameter_norms"].items()}
        values |= {f"update_ratio.{kind}": ratio for kind, ratio in event["update_ratios"].items()}
        values |= {name: event[name] for name in ("memory_bytes", "gpu_memory_bytes") if name in event}
        router = event.get("router", {})
        values |= {
            f"router_{name}": router[name] for name in ("violation", "entropy", "dead_experts") if name in router
        }
        similarities = event.get("expert_similarity", {}).values()
        if similarities:
            values["expert_similarity"] = sum(similarities) / len(similarities)
        self._tell(event, values)

    def _on_checkpoint(self, event: dict[str, Any]) -> None:
        self._run.log(
            f"checkpoint of step {event['step']} written in {event['seconds']:.1f} s, "
            f"{event['blocked_seconds']:.2f} s of it without training"
        )

    def _on_guard(self, event: dict[str, Any]) -> None:
        self._run.log(f"guard, {event['action']}: {event['reason']}")

    def _on_straggler(self, event: dict[str, Any]) -> None:
        self._run.log(f"step {event['step']}: {event['line']}")

    def _on_hang(self, event: dict[str, Any]) -> None:
        self._run.log(event["message"])

    def _count_start(self) -> None:
        self.starts += 1
        if self.starts > 1:
            self._run.log(f"workers failed and were started again ({self.starts - 1} of {self._config.max_failures})")

    def _tell(self, event: Mapping[str, Any], values: Mapping[str, float]) -> bool:
        """Record a point of a series once, though steps are repeated after a restart."""
        if event["step"] <= self._told[event["kind"]]:
            return False
        self._told[event["kind"]] = event["step"]
        self._run.metrics(event["step"], **{f"train.{name}": value for name, value in values.items()})
        return True
