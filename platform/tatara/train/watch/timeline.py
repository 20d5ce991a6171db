"""Where the time of a training run went, from its events alone: time lost by cause, and effective training time.

Llama 3 (arXiv:2407.21783 section 3.3.4) calls effective training time "the time spent on useful training over the
elapsed time" and does not say what counts as useful. Here only optimizer steps that are part of the final model
do: a step that is done again after a restart or a rollback counts once, waiting for data within a step does not count,
nor does validation, a checkpoint's stall, or start-up. Time in which nobody ran the stage (between two calls of it) is
shown, but is no part of what is elapsed.

Events, in the order in which they were written; unknown kinds, and fields that are left out, do no harm:

- ``run``: the driver (or the next one, after a kill) starts; ``started`` / ``resumed``: the workers stand;
- ``step``: ``step``, ``seconds``, ``data_wait_seconds``; written when the step ends;
- ``validation``: ``seconds`` (else all time since the event before); ``checkpoint``: ``blocked_seconds``;
- ``guard``: ``action``, ``step`` (the number that its ``step`` event will have), written within that step; ``hang``:
  written when it was found;
- ``failed``: the workers died.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

CAUSES: Mapping[str, str] = {
    "useful": "training steps",
    "data_wait": "waiting for data",
    "validation": "validation",
    "checkpoint": "checkpoint stalls",
    "startup": "start-up",
    "restart": "restarts",
    "repeated": "steps done again",
    "guard": "steps skipped by the guard, and rollbacks",
    "hang": "hangs",
    "other": "between steps",
    "stopped": "not running",
}
"""Part of the time and its name, in the order in which they are shown."""


@dataclass(frozen=True)
class TimeAccount:
    """Seconds by cause; they sum to the time from the first event (or start) to the last (or end)."""

    parts: Mapping[str, float]
    """Seconds by the keys of `CAUSES`."""
    steps: int = 0
    """Steps that were done, also again."""
    restarts: int = 0

    @property
    def wall(self) -> float:
        """Seconds in all."""
        return sum(self.parts.values())

    @property
    def effective(self) -> float:
        """Effective training time: useful seconds per second in which the stage was run, 0 to 1."""
        elapsed = self.wall - self.parts["stopped"]
        return min(1.0, self.parts["useful"] / elapsed) if elapsed > 0 else 0.0

    def report(self) -> dict[str, Any]:
        """For the run report, under ``time_account``; see `tatara.tracking.training_sections`."""
        rows = [{"cause": name, "seconds": round(self.parts[key], 3)} for key, name in CAUSES.items()]
        return {
            "effective": round(self.effective, 5),
            "wall_seconds": round(self.wall, 3),
            "steps": self.steps,
            "restarts": self.restarts,
            "parts": [row for row in rows if row["seconds"]],
        }


@dataclass
class Timeline:
    """Adds up events one at a time; what it keeps does not grow with the run."""

    start: float | None = None
    """When the stage started, in seconds since the epoch; else the first event is the start."""
    _now: float | None = None
    _parts: dict[str, float] = field(default_factory=lambda: dict.fromkeys(CAUSES, 0.0))
    _blocked: float = 0.0
    _waiting_for: str | None = "startup"
    _furthest: int = 0
    _skipped: int | None = None
    _steps: int = 0
    _begun: bool = False
    _restarts: int = 0

    def add(self, event: Mapping[str, Any]) -> None:
        """Account for the time since the event before."""
        kind = event.get("kind")
        if kind == "guard" and event.get("action") in ("warn", "skip"):
            # Written within the step that it is about, whose time is told when it ends.
            self._skipped = int(event["step"]) if event["action"] == "skip" else self._skipped
            return
        handle = _HANDLERS.get(kind) if isinstance(kind, str) else None
        if handle is not None:
            handle(self, event, self._advance(float(event["time"])))

    def account(self, end: float | None = None) -> TimeAccount:
        """The account so far.

        Args:
            end: When the stage ended, in seconds since the epoch; the time since the last event is then accounted for.
        """
        parts = dict(self._parts)
        if end is not None and self._now is not None:
            parts[self._waiting_for or "other"] += max(0.0, end - self._now)
        # The event of a checkpoint comes when it is written, long after the step that it held up.
        stalled = min(self._blocked, parts["other"])
        parts["other"] -= stalled
        parts["checkpoint"] += stalled
        return TimeAccount(parts, self._steps, self._restarts)

    def _advance(self, now: float) -> float:
        """Seconds since the event before; a clock that goes back (another host's) costs nothing."""
        if self._now is None:
            self._now = min(self.start, now) if self.start is not None else now
        passed = max(0.0, now - self._now)
        self._now += passed
        return passed

    def _on_run(self, _: Mapping[str, Any], passed: float) -> None:
        # Whatever ran before was not there any more; since when, nobody saw.
        self._parts["stopped" if self._begun else "startup"] += passed
        self._waiting_for = "restart" if self._furthest else "startup"
        self._begun = True

    def _on_start(self, _: Mapping[str, Any], passed: float) -> None:
        if self._waiting_for is None:
            self._waiting_for = "restart"
            self._restarts += 1
        self._parts[self._waiting_for] += passed
        self._begun = True

    def _on_failed(self, _: Mapping[str, Any], passed: float) -> None:
        if self._waiting_for is None:
            self._restarts += 1
            self._waiting_for = "restart"
        self._parts[self._waiting_for] += passed

    def _on_step(self, event: Mapping[str, Any], passed: float) -> None:
        seconds = min(passed, max(0.0, float(event.get("seconds", passed))))
        self._parts[self._waiting_for or "other"] += passed - seconds
        self._waiting_for, self._begun = None, True
        step = int(event["step"])
        waited = min(seconds, max(0.0, float(event.get("data_wait_seconds", 0.0))))
        if self._skipped == step:
            cause = "guard"
        elif step <= self._furthest:
            cause = "repeated"
        else:
            cause = "useful"
        self._parts["data_wait"] += waited
        self._parts[cause] += seconds - waited
        self._furthest, self._skipped = max(self._furthest, step), None
        self._steps += 1

    def _on_validation(self, event: Mapping[str, Any], passed: float) -> None:
        seconds = min(passed, max(0.0, float(event.get("seconds", passed))))
        self._parts["validation"] += seconds
        self._parts[self._waiting_for or "other"] += passed - seconds

    def _on_checkpoint(self, event: Mapping[str, Any], passed: float) -> None:
        self._parts[self._waiting_for or "other"] += passed
        self._blocked += max(0.0, float(event.get("blocked_seconds", 0.0)))

    def _on_guard(self, event: Mapping[str, Any], passed: float) -> None:
        self._parts["guard"] += passed
        if event.get("action") == "rollback":
            self._waiting_for = "guard"

    def _on_hang(self, _: Mapping[str, Any], passed: float) -> None:
        self._parts["hang"] += passed
        if self._waiting_for is None:
            self._restarts += 1
            self._waiting_for = "restart"


_HANDLERS = {
    "run": Timeline._on_run,
    "started": Timeline._on_start,
    "resumed": Timeline._on_start,
    "failed": Timeline._on_failed,
    "step": Timeline._on_step,
    "validation": Timeline._on_validation,
    "checkpoint": Timeline._on_checkpoint,
    "guard": Timeline._on_guard,
    "hang": Timeline._on_hang,
}


def account(events: Iterable[Mapping[str, Any]], start: float | None = None, end: float | None = None) -> TimeAccount:
    """The account of a list of events; see the module.

    Args:
        events: In the order in which they were written.
        start: When the stage started, in seconds since the epoch; null means with the first event.
        end: When it ended; null means with the last event.
    """
    timeline = Timeline(start)
    for event in events:
        timeline.add(event)
    return timeline.account(end)
