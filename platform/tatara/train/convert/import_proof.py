"""Proves that an imported model computes what transformers computes from the files that it came from."""

import json
import tempfile
from pathlib import Path
from typing import Any

import torch

from tatara.errors import ArtifactError
from tatara.model.hf_families import INSTELLA, Family, hf_config
from tatara.model.hf_names import entries
from tatara.model.safetensors_files import SINGLE, TensorDirectory, TensorFile
from tatara.model.spec import ModelSpec
from tatara.train.convert.export_proof import Difference, compare, load_transformers


def prove(
    source: Path,
    spec: ModelSpec,
    family: Family,
    batches: list[torch.Tensor],
    computed: list[torch.Tensor],
    tolerance: float,
) -> Difference:
    """Compare logits.

    Args:
        source: The original directory.
        spec: What it was taken for.
        family: How its tensors are called.
        batches: Token ids, each `[batch, sequence]`.
        computed: Megatron's logits in float32, each `[batch, sequence, vocab_size]`.
        tolerance: Largest absolute difference that passes.

    Raises:
        ArtifactError: transformers cannot load the files, or a logit differs by more than the tolerance.
    """
    with tempfile.TemporaryDirectory(prefix="tatara-olmoe-") as scratch:
        if family is INSTELLA:
            write_as_olmoe(source, spec, Path(scratch))
            source = Path(scratch)
        # In the type that was imported, so that a conversion is no difference, and computed in float32 like ours.
        model: Any = load_transformers(source, getattr(torch, spec.dtype)).float()
        difference = compare(model, batches, computed)
    # Written so that NaN fails.
    if not difference.largest <= tolerance:
        raise ArtifactError(
            f"the import does not compute what transformers does: a logit differs by {difference.largest:.2e}, more "
            f"than tolerance {tolerance:.0e}, over {difference.tokens} tokens"
        )
    return difference


def write_as_olmoe(source: Path, spec: ModelSpec, directory: Path) -> None:
    """Write an Instella as the mixture of one expert that transformers can load: the same tensors by other names."""
    stored = TensorDirectory(source)
    before, after = entries(spec, INSTELLA), entries(spec)
    old = {entry.megatron: entry.huggingface for entry in before}
    described = {name: (shape, getattr(torch, spec.dtype)) for entry in after for name, shape in entry.parts}
    (directory / "config.json").write_text(json.dumps(hf_config(spec)))
    with TensorFile(directory / SINGLE, described) as file:
        for entry in after:
            for place, (name, shape) in enumerate(entry.parts):
                tensor = stored.read(old[entry.megatron][place]) if entry.megatron else torch.zeros(shape)
                file.write(name, tensor.to(getattr(torch, spec.dtype)))
