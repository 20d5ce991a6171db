"""Runs global steps over documents cut into shards, the way the pipeline does."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from tatara.config import load
from tatara.data.document import Document, Verdict
from tatara.data.steps import STEPS, FanOut, GlobalStep, ShardRows, StepConfig, serially


def config_class(name: str) -> type[StepConfig]:
    import importlib

    module, _, attribute = STEPS[name].partition(":")
    found: type[StepConfig] = getattr(importlib.import_module(module), attribute)
    return found


def make(name: str, directory: Path, **values: Any) -> GlobalStep:
    """A step with its parameters."""
    import importlib

    config = load(config_class(name), values)
    module, _, attribute = type(config).implementation.partition(":")
    directory.mkdir(parents=True, exist_ok=True)
    step: GlobalStep = getattr(importlib.import_module(module), attribute)(config, directory)
    return step


def cut(documents: Sequence[Document], shards: int) -> list[list[Document]]:
    """Documents in shards of about the same size, with their rows set."""
    bounds = np.linspace(0, len(documents), shards + 1).astype(int)
    found = [list(documents[a:b]) for a, b in pairwise(bounds.tolist())]
    for shard in found:
        for row, document in enumerate(shard):
            document.row = row
    return found


class Everything:
    """Rows that are all alive, but for some; can be pickled."""

    def __init__(self, rows: Sequence[int], dead: Sequence[tuple[int, int]] = ()) -> None:
        self.rows, self.dead = list(rows), list(dead)

    def __call__(self, shard: int) -> Any:
        found = np.ones(self.rows[shard], bool)
        found[[row for number, row in self.dead if number == shard]] = False
        return found


def run(
    step: GlobalStep,
    shards: Sequence[Sequence[Document]],
    fan_out: FanOut = serially,
    memory: int = 1 << 30,
    dead: Sequence[tuple[int, int]] = (),
    batch: int = 64,
) -> tuple[list[Verdict | None], dict[str, Any]]:
    """Collect, decide and judge; the verdicts of all documents in order (None for dead ones) and the figures."""
    step.prepare()
    for number, documents in enumerate(shards):
        collector = step.collector(number)
        for start in range(0, len(documents), batch):
            collector.add(documents[start : start + batch])
        collector.close()
    rows = [ShardRows(number, len(documents)) for number, documents in enumerate(shards)]
    alive = Everything([len(documents) for documents in shards], dead)
    figures = step.decide(rows, alive, fan_out, memory)
    verdicts: list[Verdict | None] = []
    for number, documents in enumerate(shards):
        judge, living = step.judge(number), alive(number)
        here: list[Verdict | None] = []
        for start in range(0, len(documents), batch):
            part = documents[start : start + batch]
            judged = iter(judge([each for each in part if living[each.row]]))
            here += [next(judged) if living[each.row] else None for each in part]
        gone = step.removed(number)
        assert gone.shape == (len(documents),)
        assert [each is not None for each in here] == gone.tolist()
        verdicts += here
    return verdicts, figures
