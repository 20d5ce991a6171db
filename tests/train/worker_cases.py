"""What the ranks of the training worker's tests do: a whole run without Ray."""

import json
import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tatara import config
from tatara.errors import TataraError
from tatara.train.pretrain import PretrainConfig
from tatara.train.pretrain_worker import PretrainRank
from tatara.train.task import EVENTS, WorkerTask

SETTINGS: dict[str, Any] = {
    "steps": 24,
    "global_batch_size": 8,
    "micro_batch_size": 4,
    "checkpoint_interval": 6,
    "validation_interval": 12,
    "validation_sequences": 6,
    "model.hidden_size": 64,
    "model.ffn_hidden_size": 96,
    "watch.interval": 10,
}


class Stopped(Exception):
    """Stands for a kill: the run ends here, without its last words."""


def task(work: str, sources: dict[str, str], initial: str | None = None, **settings: Any) -> dict[str, Any]:
    """The task of a run in a work directory, as the driver hands it to Ray Train."""
    chosen = config.load(PretrainConfig, {}, SETTINGS | settings)
    spec = chosen.model.resolve(256, 64)
    Path(work).mkdir(parents=True, exist_ok=True)
    return vars(WorkerTask(chosen.dump(), spec.dump(), sources, initial, "f" * 64, work))


def train(
    given: dict[str, Any],
    stop_after: int | None = None,
    address_space: int | None = None,
    corrupt_after: int | None = None,
) -> str:
    """Train; returns what ended it: "done", "stopped", or the line of an error."""
    if address_space is not None:
        resource.setrlimit(resource.RLIMIT_AS, (address_space, resource.RLIM_INFINITY))
    try:
        rank = PretrainRank(WorkerTask(**given), int(os.environ["RANK"]), 0)
        if stop_after is not None:
            _before(rank, stop_after, _stop)
        if corrupt_after is not None:
            _before(rank, corrupt_after, lambda: _corrupt(rank))
        with rank:
            rank.run()
    except Stopped:
        # The other ranks stop at the same step.
        return "stopped"
    except TataraError as error:
        return f"{type(error).__name__}: {error}"
    return "done"


def _before(rank: PretrainRank, number: int, action: Callable[[], None]) -> None:
    step = rank._step

    def stepping(at: int) -> bool:
        if at == number:
            action()
        return step(at)

    rank._step = stepping  # type: ignore[method-assign]


def _stop() -> None:
    raise Stopped


def _corrupt(rank: PretrainRank) -> None:
    """What a flaky memory does."""
    named = dict(rank.engine.chunks[0].module.named_parameters())
    named["decoder.layers.1.mlp.linear_fc1.weight"].data[3, 5] = float("nan")


def events(work: str) -> list[dict[str, Any]]:
    lines = (Path(work) / EVENTS).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def losses(work: str) -> dict[int, float]:
    """The last loss of each step that was said."""
    return {event["step"]: event["loss"] for event in events(work) if event["kind"] == "step"}
