"""From the figures of a run that was measured to a prediction of that run, and of what it would be otherwise."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from tatara.config import Config, load
from tatara.errors import ConfigError
from tatara.rl.simulation.loop import EngineCurve, InFlight, LearnerCurve, Lengths, Loop, fit_engine, fit_learner, speed
from tatara.rl.simulation.outcome import Outcome


class EnginePoint(Config):
    """Speed of one engine of the run at one concurrency, and with one number of others beside it."""

    concurrency: float = Field(gt=0)
    """Responses in flight at a time, mean."""
    tokens_per_second: float = Field(gt=0)
    """Tokens of responses, of this engine alone, over the time in which something was running."""
    beside: float = Field(0.0, ge=0)
    """How many others of learner and engines worked on the same cores meanwhile, mean over that time."""
    seconds: float = Field(1.0, gt=0)
    """That it was measured; longer counts for more."""


class TrainedBatch(Config):
    """A batch that the learner trained on."""

    tokens: float = Field(gt=0)
    """Prompts and responses."""
    seconds: float = Field(gt=0)
    """From having the batch to having new weights, without giving them out."""
    beside: float = Field(0.0, ge=0)
    """How many engines worked on the same cores meanwhile, mean over that time."""


class MeasuredShares(Config):
    """What the run itself measured, to compare with. Left out: not compared."""

    batches_per_second: float | None = None
    """Updates of the policy."""
    tokens_per_second: float | None = None
    """Tokens of responses trained on."""
    utilisation: float | None = None
    """Share of all devices' time that generates or trains."""
    generate: float | None = None
    """Of the engines' time, the share with something running."""
    train: float | None = None
    """Of the learner's time, the share that trains."""
    wait: float | None = None
    """Of the learner's time, the share that waits for a batch."""
    mean_staleness: float | None = None
    """Updates between a rollout's first token and the update it is trained in."""


class MeasuredRun(Config):
    """Figures of a run. Seconds throughout."""

    engines: int = Field(ge=1)
    """Rollout workers."""
    concurrency: int = Field(ge=1)
    """Responses that an engine takes at a time, at most."""
    groups_per_batch: int = Field(ge=1)
    """Prompts in a rollout batch."""
    group_size: int = Field(ge=1)
    """Rollouts of a prompt."""
    staleness: int = Field(ge=0)
    """The bound of the run."""
    engine: tuple[EnginePoint, ...] = Field(min_length=1)
    """Speeds, best at two concurrencies or more."""
    lengths: tuple[int, ...] = Field(min_length=1)
    """Tokens of recorded responses."""
    prompt_tokens: float = Field(0.0, ge=0)
    """Of a prompt, mean."""
    train: tuple[TrainedBatch, ...] = Field(min_length=1)
    """Batches; several of different size give the cost of a token."""
    publish_seconds: float = Field(0.0, ge=0)
    """That the learner takes to give out new weights."""
    load_seconds: float = Field(0.0, ge=0)
    """That an engine pauses to take them; the probe, and what it computes again, included."""
    fetch_seconds: float = Field(0.0, ge=0)
    """From the end of that until an engine has them: it goes on meanwhile."""
    lease_seconds: float = Field(0.0, ge=0)
    """From having loaded them to having the work that they admit."""
    reward_seconds: float = Field(0.0, ge=0)
    """From the end of a rollout to its score."""
    handout_seconds: float = Field(0.0, ge=0)
    """From a batch being complete to the learner having it."""
    reward_workers: int | None = Field(None, ge=1)
    """That score at a time; null: as many as there is to score."""
    in_flight: InFlight = "continue"
    """Whether responses go on over an update."""
    dropped: float = Field(0.0, ge=0, lt=1)
    """Share of groups that were replaced for want of a signal."""
    rollout_devices: float = Field(1.0, gt=0)
    """Devices or cores of all engines."""
    learner_devices: float = Field(1.0, gt=0)
    """Those of the learner."""
    colocated: bool = False
    """Whether they are the same."""
    cores: int | None = Field(None, ge=1)
    """Cores that learner and engines share, where they slow each other down; null: each has devices of its own."""
    measured: MeasuredShares = MeasuredShares()
    """What to compare the prediction with."""

    def loop(self, staleness: int | None = None) -> Loop:
        """The same run, or with another bound on staleness, to simulate."""
        cores = None if self.cores is None else shared_cores(self.engine, self.train, self.cores)
        return Loop(
            engines=self.engines,
            concurrency=self.concurrency,
            engine=_engine(self.engine, cores),
            lengths=Lengths(recorded=self.lengths),
            groups_per_batch=self.groups_per_batch,
            group_size=self.group_size,
            staleness=self.staleness if staleness is None else staleness,
            learner=_learner(self.train, cores),
            publish=self.publish_seconds,
            load=self.load_seconds,
            fetch=self.fetch_seconds,
            lease=self.lease_seconds,
            in_flight=self.in_flight,
            reward=self.reward_seconds,
            reward_workers=self.reward_workers,
            handout=self.handout_seconds,
            prompt_tokens=self.prompt_tokens,
            dropped=self.dropped,
            rollout_devices=self.rollout_devices,
            learner_devices=self.learner_devices,
            colocated=self.colocated,
            cores=cores,
        )

    def told_by(self, runs: "Sequence[MeasuredRun]") -> "MeasuredRun":
        """This run as others predict it: its own counts, and every speed, time and length from them."""
        values: dict[str, Any] = {
            name: sum((getattr(run, name) for run in runs), ()) for name in ("engine", "train", "lengths")
        }
        for name in ("prompt_tokens", "publish_seconds", "load_seconds", "fetch_seconds", "lease_seconds",
                     "reward_seconds", "handout_seconds", "dropped"):  # fmt: skip
            values[name] = sum(getattr(run, name) for run in runs) / len(runs)
        return self.model_copy(update=values)


_STEPS = 40
"""Numbers of cores that are tried."""


def shared_cores(engine: Sequence[EnginePoint], train: Sequence[TrainedBatch], there: int) -> float:
    """How many of learner and engines a processor carries at full speed: fewer than it has cores, for others need some.

    The number with which the speeds of engines and learner, each put back to what it were alone, lie closest to one
    curve. Where nothing was ever measured with another number of others beside it, that is the number of cores.

    Args:
        engine: Speeds of engines.
        train: Of the learner.
        there: Cores.
    """

    def off(cores: float) -> float:
        curve, line = _engine(engine, cores), _learner(train, cores)
        errors = [
            (point.seconds, curve.tokens_per_second(point.concurrency) * speed(1 + point.beside, cores)
             / point.tokens_per_second) for point in engine
        ]  # fmt: skip
        errors += [
            (batch.seconds, line.seconds(batch.tokens) / speed(1 + batch.beside, cores) / batch.seconds)
            for batch in train
        ]
        weight = sum(each for each, _ in errors)
        # A little for what is known before: it decides where the measurements say nothing.
        return sum(each * math.log(ratio) ** 2 for each, ratio in errors) / weight + 1e-4 * math.log(cores / there) ** 2

    return min((1 + (there - 1) * step / _STEPS for step in range(_STEPS + 1)), key=off)


def _engine(points: Sequence[EnginePoint], cores: float | None) -> EngineCurve:
    alone = [(each.concurrency, each.tokens_per_second / speed(1 + each.beside, cores)) for each in points]
    return fit_engine(alone, [each.seconds for each in points])


def _learner(batches: Sequence[TrainedBatch], cores: float | None) -> LearnerCurve:
    return fit_learner([(each.tokens, each.seconds * speed(1 + each.beside, cores)) for each in batches])


def read_run(path: str | Path) -> MeasuredRun:
    """A run's figures from a JSON file.

    Raises:
        ConfigError: It cannot be read or holds something else; the message names the key.
    """
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from None
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold a mapping of figures, not a {type(values).__name__}")
    return load(MeasuredRun, values, where=str(path))


@dataclass(frozen=True)
class Compared:
    """A figure as measured and as predicted."""

    name: str
    measured: float
    predicted: float

    @property
    def off(self) -> float:
        """Prediction less measurement, over the measurement; of shares of time, in shares."""
        difference = self.predicted - self.measured
        return difference / self.measured if self.name.endswith("_per_second") and self.measured else difference


def compare(run: MeasuredRun, outcome: Outcome) -> list[Compared]:
    """Everything that the run measured beside its prediction."""
    predicted = {
        "batches_per_second": outcome.batches_per_second,
        "tokens_per_second": outcome.tokens_per_second,
        "utilisation": outcome.utilisation,
        "generate": outcome.rollout["generate"],
        "train": outcome.learner["train"],
        "wait": outcome.learner["wait"],
        "mean_staleness": outcome.mean_staleness,
    }
    return [Compared(name, float(value), predicted[name]) for name, value in run.measured if value is not None]
