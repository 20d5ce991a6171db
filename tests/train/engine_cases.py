"""What the ranks of the engine and checkpoint tests do."""

import json
import resource
from pathlib import Path
from typing import Any

from tatara.model.spec import ModelSpec
from tatara.train.checkpoint import directories
from tatara.train.checkpoint import writer as checkpoint_writer
from tatara.train.checkpoint.writer import CheckpointWriter
from tatara.train.engine import Engine
from tatara.train.feed.batches import PackedTokens
from tatara.train.feed.positions import bins_at, rank_slice, step_positions
from tatara.train.layout import ParallelLayout
from tatara.train.optimizer import AdamSettings
from train.tokens_cases import SEQUENCE, VOCABULARY

GLOBAL_BATCH = 8
MICRO_BATCH = 2


def spec(**changes: Any) -> ModelSpec:
    return ModelSpec(**{"vocab_size": VOCABULARY, "hidden_size": 64, "ffn_hidden_size": 96, "init_std": 0.1} | changes)


class Run:
    """An engine and the data it trains on."""

    def __init__(self, tokens: str, layout: dict[str, Any], **changes: Any) -> None:
        self.engine = Engine(
            spec(**changes),
            ParallelLayout(**layout),
            AdamSettings(learning_rate=3e-3, clip_norm=0.7),
            sequence_length=SEQUENCE,
            micro_batch_size=MICRO_BATCH,
            seed=4,
        )
        self.data = PackedTokens(Path(tokens), "train", SEQUENCE)
        self.held_out = PackedTokens(Path(tokens), "validation", SEQUENCE)

    def step(self, step: int) -> tuple[float, int, float]:
        engine = self.engine
        mine = rank_slice(step_positions(step, GLOBAL_BATCH), engine.data_rank, engine.layout.dp)
        batch = self.data.batch(bins_at(mine, self.data.num_bins, seed=4))
        result = engine.train_step(batch.split(MICRO_BATCH), learning_rate=1e-3 * (step + 1))
        return result.loss, result.tokens, result.gradient_norm

    def validate(self) -> tuple[float, int]:
        engine = self.engine
        # Seven rows and one of padding.
        lists = [[0, 1], [2, 3], [4, 5], [6, -1]]
        result = engine.evaluate([self.held_out.batch(bins) for bins in lists[engine.data_rank :: engine.layout.dp]])
        return result.mean, result.tokens


def train(tokens: str, layout: dict[str, Any], steps: int, changes: dict[str, Any] | None = None) -> Any:
    """Losses, token counts and gradient norms of the first steps, then the validation loss."""
    run = Run(tokens, layout, **changes or {})
    return [run.step(step) for step in range(steps)], run.validate()


def train_and_save(tokens: str, layout: dict[str, Any], root: str, steps: int, every: int) -> Any:
    """Train with a checkpoint every few steps; returns all losses and what each checkpoint cost."""
    run = Run(tokens, layout)
    writer = CheckpointWriter(run.engine, Path(root), keep=2)
    losses, written = [], []
    for step in range(steps):
        losses.append(run.step(step))
        written.append(writer.poll())
        if (step + 1) % every == 0:
            training = {"step": step + 1, "layout": run.engine.layout.dump()}
            written.append(writer.save(step + 1, training, [{"loss": loss[0]} for loss in losses]))
    written.append(writer.finish())
    return losses, [each for each in written if each is not None]


def load_and_train(tokens: str, layout: dict[str, Any], root: str, until: int) -> Any:
    """Continue from the newest checkpoint; returns its step, its losses so far and the losses after it."""
    run = Run(tokens, layout)
    found = directories.newest(Path(root), print)
    training = checkpoint_writer.load(run.engine, found)
    before = [json.loads(line)["loss"] for line in (found.path / "losses.jsonl").read_text().splitlines()]
    return training["step"], before, [run.step(step) for step in range(training["step"], until)]


def save_to_a_full_disk(tokens: str, root: str) -> str:
    """The message of a checkpoint whose files cannot grow beyond 100 kB."""
    run = Run(tokens, {})
    run.step(0)
    writer = CheckpointWriter(run.engine, Path(root), keep=2)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        writer.save(1, {"layout": run.engine.layout.dump()}, [])
        writer.finish()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    return "written"


def fail_to_load(tokens: str, layout: dict[str, Any]) -> str:
    """The message of building an engine whose layout does not fit."""
    try:
        Run(tokens, layout)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "built"
