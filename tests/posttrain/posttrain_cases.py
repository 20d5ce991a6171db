"""Small artifacts for the stages after pretraining."""

import json
import shutil
from pathlib import Path
from typing import Any

from tatara.artifact import Artifact, Draft, Store
from tatara.posttrain import dialogues_run, render_run
from tatara.posttrain.dialogues import STAGE as DIALOGUES
from tatara.posttrain.dialogues import DialoguesConfig
from tatara.posttrain.render import STAGE as RENDER
from tatara.posttrain.render import RenderConfig
from tatara.stage import standalone


def arithmetic(root: Path, train: int = 60, validation: int = 12) -> Artifact:
    """Conversations about sums."""
    config = DialoguesConfig.model_validate({"arithmetic": {"train": train, "validation": validation}})
    with standalone(DIALOGUES, config, root=root, name="sums") as attempt:
        return attempt.commit(dialogues_run.run(config, attempt.stage_run))


def conversations(root: Path, rows: list[dict[str, Any]]) -> Artifact:
    """Conversations of a file; about half of them are held out."""
    path = root / "rows.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n", encoding="utf-8")
    config = DialoguesConfig(files=(str(path),), validation_fraction=0.5)
    with standalone(DIALOGUES, config, root=root, name="rows") as attempt:
        return attempt.commit(dialogues_run.run(config, attempt.stage_run))


def tokenizer_of(root: Path, tokenizer: Path, name: str = "t") -> Artifact:
    """A tokens artifact that has a tokenizer and nothing else."""
    attempt = Store(root).begin(Draft(kind="tokens", name=name, version=1, stage="tokenize", fingerprint="0" * 64))
    shutil.copytree(tokenizer, attempt.path / "tokenizer")
    return attempt.commit({}, 1.0)


def render(root: Path, said: Artifact, tokenizer: Artifact, name: str = "r", **given: Any) -> Artifact:
    config = RenderConfig.model_validate({"sequence_length": 64, **given})
    inputs = {"conversations": said, "tokenizer": tokenizer}
    with standalone(RENDER, config, inputs=inputs, root=root, name=name) as attempt:
        return attempt.commit(render_run.run(config, attempt.stage_run))
