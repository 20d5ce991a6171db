"""Guard against loss spikes and values that are no numbers: a state machine without a clock, a rank or a model.

Before the optimizer applies a step, every rank shows the guard the same loss and gradient norm, and gets the same
verdict. Its state is JSON and goes into every checkpoint, so that a resumed run takes the same decisions again.

What is an outlier is decided by the recent steps alone: more than so many robust standard deviations (1.4826 times
the median absolute deviation) above their median. Rolling back to an earlier checkpoint and going on with later data is
what PaLM did by hand about twenty times (arXiv:2204.02311 section 5.1).
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field

from tatara.config import Config
from tatara.train.feed.phases import Skip, data_step, skip_to

Action = Literal["go", "warn", "skip", "rollback", "stop"]

_TO_SIGMA = 1.4826
"""Standard deviation of a normal distribution per median absolute deviation."""
_LEAST_SIGMA = 0.002
"""Least standard deviation to reckon with, as a share of the median: a plateau without noise is no reason to act."""


class GuardSettings(Config):
    """What to do when the loss jumps or is not a number."""

    spikes: Literal["warn", "skip", "rollback"] = "warn"
    """``warn`` only says so, ``skip`` leaves the batch out, ``rollback`` leaves it out too and, when ``patience`` steps
    in a row are outliers, goes back to an earlier checkpoint and skips the data since."""
    nan: Literal["skip", "rollback", "stop"] = "skip"
    """The same for a loss or gradient norm that is not finite; applying one would destroy the weights, so there is no
    ``warn``. ``patience`` such steps in a row end the run, or roll back."""
    window: int = Field(64, ge=4)
    """Recent steps that decide what is usual; there are no spikes before half of them are there."""
    threshold: float = Field(8.0, gt=0)
    """Robust standard deviations above the recent median loss that make a spike."""
    gradient_factor: float = Field(20.0, gt=1)
    """Multiple of the recent median gradient norm that makes a spike."""
    patience: int = Field(3, ge=1)
    """Outliers in a row after which skipping has not helped. Spikes are then taken for the new usual, unless they are
    rolled back."""
    rollback_checkpoints: int = Field(1, ge=1)
    """How many checkpoints to go back; 1 is the newest."""
    max_actions: int = Field(20, ge=1)
    """Skips and rollbacks within ``action_span`` steps after which the run ends."""
    action_span: int = Field(10_000, ge=1)
    """Steps after which a skip or rollback is forgotten."""


@dataclass(frozen=True)
class Verdict:
    """What to do with a step, and why."""

    action: Action
    reason: str = ""

    @property
    def applies(self) -> bool:
        """Whether the optimizer may apply the step."""
        return self.action in ("go", "warn")


class Guard:
    """Looks at each step's loss and gradient norm. Deterministic: the same values give the same verdicts."""

    def __init__(self, settings: GuardSettings, learning_rate: float, warmup_steps: int) -> None:
        """Start without a past.

        Args:
            settings: What to do when.
            learning_rate: Peak, for the advice when the guard gives up.
            warmup_steps: Likewise.
        """
        self.settings = settings
        self._advice = f"lower optimizer.learning_rate={learning_rate} or raise schedule.warmup_steps={warmup_steps}"
        self._recent: list[tuple[int, float, float]] = []
        self._outliers = 0
        self._actions: list[int] = []
        self._skips: tuple[Skip, ...] = ()
        self._rollbacks = 0

    @property
    def skips(self) -> tuple[Skip, ...]:
        """Windows of data that rollbacks left out; see `tatara.train.feed.phases.data_step`."""
        return self._skips

    def look(self, step: int, loss: float, gradient_norm: float) -> Verdict:
        """Judge a step before the optimizer applies it.

        Args:
            step: Number of the step, counted from 0; it may repeat after a rollback.
            loss: In nats, over all ranks.
            gradient_norm: Before clipping, over all ranks.
        """
        found, finite = self._find(loss, gradient_norm)
        if not found:
            self._outliers = 0
            self._recent = [*self._recent, (step, loss, gradient_norm)][-self.settings.window :]
            return Verdict("go")
        self._outliers += 1
        reason = f"the loss at step {step + 1} is {loss:.5g} (gradient norm {gradient_norm:.4g})" + found
        verdict = self._spike(reason) if finite else self._not_finite(reason)
        if verdict.action in ("skip", "rollback"):
            self._actions = [each for each in self._actions if step - self.settings.action_span < each]
            self._actions.append(step)
            if len(self._actions) > self.settings.max_actions:
                times = f"after {self.settings.max_actions} skips and rollbacks in {self.settings.action_span} steps"
                return Verdict("stop", f"{reason}, {times}: {self._advice}")
        return verdict

    def _spike(self, reason: str) -> Verdict:
        lasting = self._outliers >= self.settings.patience
        if lasting and self.settings.spikes == "rollback":
            return Verdict("rollback", f"{reason}, the {_ordinal(self._outliers)} in a row")
        if lasting:
            # The batches are not to blame: a new mixture, a longer context, or weights that skipping cannot mend.
            self._recent, count, self._outliers = [], self._outliers, 0
            return Verdict("warn", f"{reason}, the {_ordinal(count)} in a row: taken for the new usual")
        return Verdict("warn" if self.settings.spikes == "warn" else "skip", reason)

    def _not_finite(self, reason: str) -> Verdict:
        if self.settings.nan == "stop":
            return Verdict("stop", f"{reason}: {self._advice}")
        if self._outliers < self.settings.patience:
            return Verdict("skip", reason)
        reason += f", the {_ordinal(self._outliers)} in a row"
        if self.settings.nan == "rollback":
            return Verdict("rollback", reason)
        return Verdict("stop", f"{reason}: {self._advice}")

    def _find(self, loss: float, gradient_norm: float) -> tuple[str, bool]:
        """What is odd, empty where nothing is, and whether the values are numbers."""
        if not math.isfinite(loss) or not math.isfinite(gradient_norm):
            return ", not a finite number", False
        if len(self._recent) < self.settings.window // 2:
            return "", True
        losses = [loss for _, loss, _ in self._recent]
        median, sigma = robust(losses)
        if loss > median + self.settings.threshold * sigma:
            return f", {(loss - median) / sigma:.1f} sigma above the usual {median:.5g}", True
        usual = statistics.median(norm for _, _, norm in self._recent)
        if usual > 0 and gradient_norm > self.settings.gradient_factor * usual:
            return f", {gradient_norm / usual:.1f} times the usual gradient norm {usual:.4g}", True
        return "", True

    def rolled_back(self, failed_step: int, to_step: int, checkpoint: Mapping[str, Any]) -> None:
        """Take note that training goes on from an earlier checkpoint, with the data after those that failed.

        Args:
            failed_step: The step that the verdict was for, counted from 0.
            to_step: Steps that the checkpoint had done: the number of the step that comes next.
            checkpoint: The guard's `state` in that checkpoint.
        """
        self._skips = skip_to(self._skips, to_step, data_step(failed_step, self._skips) + 1)
        self._rollbacks += 1
        self.restore(checkpoint, self.state())

    def state(self) -> dict[str, Any]:
        """Everything that the next verdicts depend on, JSON-able, for a checkpoint."""
        return {
            "recent": [list(each) for each in self._recent],
            "outliers": self._outliers,
            "actions": list(self._actions),
            "skips": [skip.dump() for skip in self._skips],
            "rollbacks": self._rollbacks,
        }

    def restore(self, state: Mapping[str, Any], journal: Mapping[str, Any] | None = None) -> None:
        """Go on from a `state`.

        Args:
            state: Of the checkpoint that the run resumes from.
            journal: The state that was last written down after a rollback, outside of the checkpoints. A checkpoint
                from before the rollback does not know of it: then its actions and skipped data come from the journal.
        """
        self._recent = [(int(step), float(loss), float(norm)) for step, loss, norm in state["recent"]]
        newest = journal if journal is not None and journal["rollbacks"] > state["rollbacks"] else state
        self._outliers = int(state["outliers"]) if newest is state else 0
        self._actions = [int(step) for step in newest["actions"]]
        self._skips = tuple(Skip.model_validate(skip) for skip in newest["skips"])
        self._rollbacks = int(newest["rollbacks"])


def robust(values: Sequence[float]) -> tuple[float, float]:
    """Median, and a standard deviation that single outliers do not move; never quite zero."""
    median = statistics.median(values)
    spread = statistics.median(abs(value - median) for value in values)
    return median, max(_TO_SIGMA * spread, _LEAST_SIGMA * abs(median), 1e-9)


def _ordinal(number: int) -> str:
    suffix = "th" if 10 <= number % 100 <= 20 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{suffix}"
