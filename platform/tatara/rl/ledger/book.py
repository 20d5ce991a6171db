"""A ledger kept on disk: events are written before they count."""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

from pydantic import Field

from tatara.config import Config, operational
from tatara.errors import DataError, StorageError
from tatara.rl.curriculum import CurriculumStage, HeldOut, Passing, batch_sizes
from tatara.rl.journal import Journal, sync_directory
from tatara.rl.ledger.apply import apply
from tatara.rl.ledger.packing import Record
from tatara.rl.ledger.state import Settings, State, restore, snapshot
from tatara.rl.prompts import fingerprint, plan_orders
from tatara.rl.record import Prompt

LINEAGE = "batches.jsonl"
"""File with a line per batch that is in a checkpoint: positions, prompts, versions, what was dropped before it."""


class BufferConfig(Config):
    """What the buffer has to know of a run."""

    stages: tuple[CurriculumStage, ...] = Field(min_length=1)
    """Of the curriculum, in order."""
    batches: int | None = operational(None, ge=1)
    """Rollout batches of the run; None: until the last stage ends, or for ever."""
    staleness: int = Field(0, ge=0)
    """Updates that may come between a rollout's first token and the update it is trained in; 0 is synchronous."""
    seed: int = 0
    """Of the order of prompts."""
    passing: Passing = Passing()
    """When a rollout counts as solved."""
    held_out: HeldOut | None = None
    """How held-out prompts are answered; none is no evaluation."""
    stop_token_ids: tuple[int, ...] = ()
    """Tokens that end the model's turn."""
    transcripts: int = operational(2, ge=0)
    """Sample rollouts to keep as text, per batch and per evaluation."""
    transcripts_every: int = operational(10, ge=1)
    """Batches between batches with transcripts."""


class Book:
    """State and journal of a run.

    Attributes:
        state: As of the last event.
        settings: Of the run.
        prompts: As prepared; positions lead to their numbers.
        held_out: The same of evaluations.
    """

    def __init__(
        self,
        directory: str | Path,
        config: BufferConfig,
        prompts: Sequence[Prompt],
        held_out: Sequence[Prompt] = (),
        first_batch: int = 0,
    ):
        """Open the book in a directory; if there is none, begin one.

        Args:
            directory: One that outlives the process; all machines the buffer may run on must see it.
            config: Of the run.
            prompts: To train on.
            held_out: To evaluate with.
            first_batch: Where a new book begins: the batch that the learner's checkpoint goes on with.

        Raises:
            StorageError: The journal is damaged, of another run, or open elsewhere.
            ConfigError: See `batch_sizes` and `plan_orders`.
            DataError: See `plan_orders`; or evaluations are configured without prompts.
        """
        if config.held_out is not None and not held_out:
            raise DataError("held_out is configured, but there are no held-out prompts: prepare some, or leave it out")
        self.prompts, self.held_out, self.config = prompts, held_out, config
        self.settings = Settings(
            config.stages,
            plan_orders(prompts, config.stages, config.seed),
            batch_sizes(config.stages, config.batches),
            config.staleness,
            config.passing,
            config.held_out,
            len(held_out),
            config.transcripts,
            config.transcripts_every,
        )
        self._identity = _identity(config, prompts, held_out)
        self.state = State()
        self.journal = Journal(directory)
        try:
            self._read(first_batch)
        except BaseException:
            self.journal.close()
            raise

    def _read(self, first_batch: int) -> None:
        empty = True
        for record in self.journal.read():
            if empty and record.get("identity") != self._identity:
                raise StorageError(
                    f"{self.journal.path} is of another run (prompts, curriculum, seed or staleness differ): give this "
                    "run a directory of its own, or delete that one to start again"
                )
            if empty:
                self.state = restore(record["state"])
            else:
                apply(self.state, record, self.settings)
            empty = False
        if empty:
            if first_batch:
                apply(self.state, {"event": "start", "batch": first_batch}, self.settings)
            self.journal.append([self._head()], sync=True)
            sync_directory(self.journal.path.parent)

    def _head(self) -> Record:
        return {"identity": self._identity, "state": snapshot(self.state)}

    def commit(self, *events: Record | None, sync: bool = False) -> None:
        """Write events, then let them count; those that are None are not there.

        Raises:
            StorageError: They cannot be written; nothing has changed.
        """
        found = [event for event in events if event is not None]
        if found:
            self.journal.append(found, sync)
        for event in found:
            apply(self.state, event, self.settings)

    def checkpointed(self, number: int) -> None:
        """Batches below a number are in a checkpoint: keep their lineage, forget their rollouts.

        Raises:
            StorageError: The disk is full or gone.
        """
        if number <= self.state.retired:
            return
        self._write_lineage(number)
        self.commit({"event": "checkpoint", "batch": number})
        self.journal.compact(self._head())

    def _write_lineage(self, number: int) -> None:
        path = self.journal.path.with_name(LINEAGE)
        last = _cut_torn_line(path)
        lines = [json.dumps(self._line(batch)) + "\n" for batch in sorted(self.state.batches) if last < batch < number]
        with open(path, "a", encoding="utf-8") as file:
            file.writelines(lines)
            file.flush()
            os.fsync(file.fileno())

    def _line(self, batch: int) -> Record:
        groups = self.state.batches[batch]
        return {
            "batch": batch,
            "stage": self.settings.stages[groups[0].stage].name,
            "positions": [group.position for group in groups],
            "prompts": [[self.prompts[group.prompt].source, self.prompts[group.prompt].id] for group in groups],
            "versions": [[[*rollout["versions"]] for _, rollout in sorted(group.rollouts.items())] for group in groups],
            "dropped": [
                {
                    "position": position,
                    "prompt": [self.prompts[number].source, self.prompts[number].id],
                    "reason": reason,
                }
                for position, number, reason in self.state.dropped_before.get(batch, [])
            ],
        }

    def close(self) -> None:
        """Let another process open it."""
        self.journal.close()


def _identity(config: BufferConfig, prompts: Sequence[Prompt], held_out: Sequence[Prompt]) -> str:
    literals = json.dumps(config.identity(), sort_keys=True)
    parts = "\n".join((literals, fingerprint(prompts), fingerprint(held_out)))
    return hashlib.blake2b(parts.encode(), digest_size=16).hexdigest()


def _cut_torn_line(path: Path) -> int:
    """Number of the last batch in a lineage file, -1 if there is none; a line torn at its end is cut off."""
    if not path.exists():
        return -1
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) < len(data):
        os.truncate(path, len(whole))
    lines = whole.splitlines()
    return int(json.loads(lines[-1])["batch"]) if lines else -1
