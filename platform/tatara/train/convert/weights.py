"""Checkpoints of nothing but weights, in the shape of those of pretraining, which can start from them."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tatara.errors import ArtifactError
from tatara.model.spec import ModelSpec

if TYPE_CHECKING:
    from megatron.core.models.gpt.gpt_model import GPTModel


def write_weights(
    model: "GPTModel", spec: ModelSpec, directory: Path, tokenizer: Path, training: Mapping[str, Any]
) -> None:
    """Write the payload of a checkpoint artifact: ``model/``, ``model.json``, ``training.json``, ``tokenizer/``.

    Args:
        model: The whole model on this one rank.
        spec: Its architecture.
        directory: Existing directory to write into.
        tokenizer: Directory of the tokenizer's files.
        training: JSON-able facts about where the weights come from; they have trained for no step yet.

    Raises:
        ArtifactError: The tokenizer's directory is missing.
    """
    from megatron.core import dist_checkpointing

    if not tokenizer.is_dir():
        raise ArtifactError(f"{tokenizer} is missing: a checkpoint goes with its tokenizer")
    (directory / "model").mkdir()
    dist_checkpointing.save({"model": model.sharded_state_dict()}, str(directory / "model"), ("torch_dist", 1))
    shutil.copytree(tokenizer, directory / "tokenizer")
    (directory / "model.json").write_text(json.dumps(spec.dump(), indent=1) + "\n", encoding="utf-8")
    start = {"step": 0, "tokens": 0, **training}
    (directory / "training.json").write_text(json.dumps(start, indent=1) + "\n", encoding="utf-8")
