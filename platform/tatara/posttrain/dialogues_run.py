"""The ``dialogues`` stage: conversations in one shape, a part of them held out."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tatara import storage
from tatara.chat import Conversation
from tatara.chat.conversation import parse_line, write_conversations
from tatara.data.sources import files_identity
from tatara.errors import DataError
from tatara.posttrain import arithmetic
from tatara.posttrain.dialogues import DialoguesConfig
from tatara.stage import SourceFile, StageRun

SPLITS = ("train", "validation")
_NAMED = 10
_SAMPLES = 8


def sources(config: DialoguesConfig) -> list[SourceFile]:
    """What identifies the files, for the stage's fingerprint."""
    return files_identity(config.files) if config.files else []


def run(config: DialoguesConfig, stage_run: StageRun) -> dict[str, Any]:
    """Make or read conversations.

    Returns:
        Conversations of each split, and rows that were skipped.

    Raises:
        DataError: A row is no conversation, or there are fewer than two questions.
        ConfigError: There are fewer problems than are asked for.
    """
    skipped = 0
    if config.files:
        made, skipped = _from_files(config, stage_run)
    else:
        made = arithmetic.conversations(config.arithmetic, config.validation_fraction, config.seed)
    directory = stage_run.output.path
    for split in SPLITS:
        write_conversations(directory / f"{split}.jsonl", made[split])
    splits = {split: _described(made[split], directory / f"{split}.jsonl") for split in SPLITS}
    digest = hashlib.sha256("".join(str(splits[split]["sha256"]) for split in SPLITS).encode()).hexdigest()
    described = {"source": "files" if config.files else "arithmetic", "sha256": digest, **splits}
    text = json.dumps(described, indent=1, ensure_ascii=False) + "\n"
    (directory / "conversations.json").write_text(text, encoding="utf-8")
    _report(made, splits, stage_run)
    skips = f"; {skipped:,} rows skipped" if skipped else ""
    counts = ", ".join(f"{len(made[split]):,} for {split}" for split in SPLITS)
    stage_run.log(f"conversations: {counts}{skips}")
    return {f"{split}_conversations": len(made[split]) for split in SPLITS} | {"skipped_rows": skipped}


def _from_files(config: DialoguesConfig, stage_run: StageRun) -> tuple[dict[str, list[Conversation]], int]:
    rows = _Rows(config, stage_run)
    questions: dict[str, list[Conversation]] = {}
    ids: dict[str, str] = {}
    for each, where in rows:
        if each.id in ids:
            raise DataError(f"{where}: id {each.id!r} is that of {ids[each.id]}: make ids unique, or leave them out")
        ids[each.id] = where
        asked = json.dumps([[item["role"], item["content"]] for item in each.prompt], ensure_ascii=False)
        questions.setdefault(asked, []).append(each)
    if len(questions) < 2:
        raise DataError(
            f"{', '.join(config.files)}: {len(questions)} different question(s); at least 2 are needed, one to train "
            "on and one to hold out"
        )
    numbers = {asked: arithmetic.uniform(asked, config.seed) for asked in questions}
    held_out = {asked for asked, number in numbers.items() if number < config.validation_fraction}
    held_out = held_out or {min(numbers, key=numbers.__getitem__)}
    if len(held_out) == len(questions):
        held_out.remove(max(numbers, key=numbers.__getitem__))
    made: dict[str, list[Conversation]] = {"train": [], "validation": []}
    for asked, found in questions.items():
        made["validation" if asked in held_out else "train"] += found
    if rows.repeated:
        stage_run.log(f"{rows.repeated:,} rows repeat a conversation and are left out")
    return made, rows.skipped


class _Rows:
    """Conversations of the files with where they stand; counts what is skipped."""

    def __init__(self, config: DialoguesConfig, stage_run: StageRun) -> None:
        self._config, self._stage_run = config, stage_run
        self.skipped = self.repeated = 0

    def __iter__(self) -> Iterator[tuple[Conversation, str]]:
        seen: set[tuple[str, str]] = set()
        for file in files_identity(self._config.files):
            for number, line in enumerate(storage.read_bytes(file.path).split(b"\n"), start=1):
                where = f"{file.path}:{number}"
                found = self._parsed(line, where) if line.strip() else None
                if found is None:
                    continue
                # The very same conversation twice is one.
                key = found.id, json.dumps(found.messages)
                if key in seen:
                    self.repeated += 1
                else:
                    seen.add(key)
                    yield found, where

    def _parsed(self, line: bytes, where: str) -> Conversation | None:
        try:
            return parse_line(line, where)
        except DataError as error:
            if self._config.bad_rows == "stop":
                raise DataError(f"{error} (or pass --bad_rows skip)") from None
            self.skipped += 1
            if self.skipped <= _NAMED:
                self._stage_run.log(f"skipped: {error}")
            return None


def _described(made: list[Conversation], path: Path) -> dict[str, Any]:
    roles = Counter(message["role"] for each in made for message in each.messages)
    return {
        "conversations": len(made),
        "with_answer": sum(each.messages[-1]["role"] == "assistant" for each in made),
        "messages": dict(sorted(roles.items())),
        "characters": sum(len(message["content"]) for each in made for message in each.messages),
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }


def _report(made: dict[str, list[Conversation]], splits: dict[str, dict[str, Any]], stage_run: StageRun) -> None:
    columns = ["conversations", "with_answer", "characters"]
    tables: list[dict[str, Any]] = [
        {
            "title": "Conversations",
            "columns": ["split", *(name.replace("_", " ") for name in columns), "messages"],
            "rows": [
                [split, *(splits[split][name] for name in columns), sum(splits[split]["messages"].values())]
                for split in SPLITS
            ],
        },
        {
            "title": "Some of the conversations that are held out",
            "columns": ["id", "conversation"],
            "rows": [
                [each.id, "\n".join(f"{item['role']}: {item['content'][:300]}" for item in each.messages)]
                for each in made["validation"][:_SAMPLES]
            ],
        },
    ]
    stage_run.report("table", tables)
