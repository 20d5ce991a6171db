"""What a simulated loop did, and how its devices spent their time."""

from collections.abc import Mapping
from dataclasses import dataclass

from tatara.rl.simulation.loop import Loop


@dataclass(frozen=True)
class Outcome:
    """Of the batches that were measured, those of the start left out. Shares add up to 1 within each mapping.

    Attributes:
        batches: Measured.
        seconds: That they took.
        generated: Tokens of responses that engines generated meanwhile.
        trained: Tokens of responses that were trained on.
        rollout: Shares of the engines' time: ``generate`` (something is running), ``wait``, ``sync``, and of colocated
            ones ``train``.
        learner: Shares of the learner's time: ``train``, ``wait``, ``sync``.
        devices: Shares of all devices' time: ``generate``, ``wait``, ``train``, ``sync``.
        occupancy: Responses in flight over what the engines take, mean over time.
        staleness: Rollouts trained on, by the number of updates since their first token.
        started: Rollouts handed to engines, from the beginning of the run.
        trained_rollouts: Likewise; those of batches.
        dropped_rollouts: Likewise; those of groups without signal.
        held_rollouts: Running, or finished and in no batch, at the end of the run.
    """

    batches: int
    seconds: float
    generated: float
    trained: int
    rollout: Mapping[str, float]
    learner: Mapping[str, float]
    devices: Mapping[str, float]
    occupancy: float
    staleness: Mapping[int, int]
    started: int
    trained_rollouts: int
    dropped_rollouts: int
    held_rollouts: int

    @property
    def utilisation(self) -> float:
        """Share of all devices' time that generates or trains."""
        return self.devices["generate"] + self.devices["train"]

    @property
    def batches_per_second(self) -> float:
        """Updates of the policy."""
        return self.batches / self.seconds

    @property
    def tokens_per_second(self) -> float:
        """Tokens of responses trained on."""
        return self.trained / self.seconds

    @property
    def mean_staleness(self) -> float:
        """Updates between a rollout's first token and the update it is trained in."""
        return sum(age * count for age, count in self.staleness.items()) / sum(self.staleness.values())

    @property
    def max_staleness(self) -> int:
        """Of any rollout."""
        return max(self.staleness)

    def figures(self) -> dict[str, float | dict[str, float]]:
        """As JSON-able literals."""
        return {
            "batches_per_second": self.batches_per_second,
            "tokens_per_second": self.tokens_per_second,
            "utilisation": self.utilisation,
            "occupancy": self.occupancy,
            "mean_staleness": self.mean_staleness,
            "max_staleness": self.max_staleness,
            "rollout": dict(self.rollout),
            "learner": dict(self.learner),
            "devices": dict(self.devices),
        }


def shares(
    loop: Loop, passed: Mapping[str, float], seconds: float
) -> tuple[dict[str, float], dict[str, float], dict[str, float]]:
    """Shares of the engines' time, of the learner's, and of all devices'.

    Args:
        loop: What was simulated.
        passed: Seconds of all engines together by what they did, and of the learner with ``learner`` before the name.
        seconds: That went by.
    """
    whole = seconds * loop.engines
    rollout = {name: passed[name] / whole for name in ("generate", "wait", "sync")}
    learner = {name: passed[f"learner {name}"] / seconds for name in ("train", "sync")}
    learner["wait"] = 1 - sum(learner.values())
    if not loop.colocated:
        part = loop.rollout_devices / (loop.rollout_devices + loop.learner_devices)
        names = ("generate", "wait", "train", "sync")
        return (
            rollout,
            learner,
            {name: part * rollout.get(name, 0.0) + (1 - part) * learner.get(name, 0.0) for name in names},
        )
    rollout["train"] = passed["halted"] / whole - learner["sync"]
    rollout["sync"] += learner["sync"]
    devices = {"generate": rollout["generate"], "train": learner["train"], "sync": rollout["sync"]}
    devices["wait"] = 1 - sum(devices.values())
    return rollout, learner, devices
