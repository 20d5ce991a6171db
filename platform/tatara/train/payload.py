"""The payload of a checkpoint artifact: a finished run's last checkpoint, with its tokenizer."""

import json
import os
import shutil
from pathlib import Path

from tatara.model.spec import ModelSpec
from tatara.train.checkpoint import directories, remote
from tatara.train.checkpoint.directories import Checkpoint


def write_payload(output: Path, final: Checkpoint, spec: ModelSpec, tokenizer: Path) -> None:
    """Write the payload; the checkpoint's bytes are shared where the file system can.

    Args:
        output: Directory of the artifact.
        final: The checkpoint.
        spec: The architecture at its step.
        tokenizer: Directory of the tokenizer, with the chat template if there is one.
    """
    listed = [str(file["path"]) for file in final.manifest["files"]]
    if final.url:
        remote.fetch(final, listed)
    for name in (*listed, directories.MANIFEST):
        source, target = final.path / name, output / name
        if name == directories.MANIFEST:
            # The artifact has a manifest of its own under that name.
            target = output / "checkpoint.json"
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_file():
            _link_or_copy(source, target)
    shutil.copytree(tokenizer, output / "tokenizer")
    (output / "model.json").write_text(json.dumps(spec.dump(), indent=1) + "\n", encoding="utf-8")


def _link_or_copy(source: str | Path, target: str | Path) -> None:
    """Checkpoints are large and the working copy is deleted soon: share the bytes where the file system can."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
