"""Loads Hugging Face tensors into a sharded Megatron model: the inverse of the weight stream."""

from collections.abc import Iterable, Sequence

import torch
import torch.distributed as dist
from megatron.core import parallel_state

from tatara.errors import ArtifactError
from tatara.model.hf import Named, local_tensors, places_of
from tatara.model.hf_families import Family
from tatara.model.hf_names import Entry, entries, from_hf, hf_shapes
from tatara.model.parameters import (
    shard,
    unwrap,
)
from tatara.model.safetensors_files import TensorDirectory
from tatara.model.spec import ModelSpec


@torch.no_grad()
def load_from_hf(
    chunks: Sequence[torch.nn.Module], spec: ModelSpec, tensors: Iterable[Named], family: Family | None = None
) -> None:
    """Copy Hugging Face tensors into the model; the inverse of `stream_to_hf`.

    Every rank must be given all tensors, in any order; each keeps its shard. Nothing is communicated but the names.

    Args:
        chunks: What `build_model` returned, or the same wrapped for training.
        spec: The architecture.
        tensors: (name, full tensor) pairs.
        family: How the tensors are called; None means as `stream_to_hf` calls them.

    Raises:
        ArtifactError: A tensor is missing, unknown, given twice, or of another shape than the architecture says.
    """
    local = local_tensors(chunks)
    known = entries(spec, family)
    places_of(local, known)
    by_name = {name: entry for entry in known for name in entry.huggingface}
    shapes = hf_shapes(spec, family)
    waiting: dict[str, dict[str, torch.Tensor]] = {}
    seen: set[str] = set()
    for name, tensor in tensors:
        if name in seen:
            raise ArtifactError(f"tensor {name} was given twice")
        _check_shape(name, tuple(tensor.shape), shapes)
        seen.add(name)
        entry = by_name[name]
        # A tensor that others are needed for waits for them.
        parts = waiting.setdefault(entry.huggingface[0], {})
        parts[name] = tensor
        if len(parts) == len(entry.huggingface):
            _assign(entry, local.get(entry.megatron), waiting.pop(entry.huggingface[0]), spec)
    _check_complete(seen, shapes)
    _copy_tied_output(chunks)


@torch.no_grad()
def load_from_directory(
    chunks: Sequence[torch.nn.Module], spec: ModelSpec, directory: TensorDirectory, family: Family | None = None
) -> None:
    """Like `load_from_hf`, from safetensors files of which each rank reads what it holds, one tensor at a time.

    Raises:
        ArtifactError: A tensor is missing, unknown, or of another shape than the architecture says; or a file cannot
            be read.
    """
    local = local_tensors(chunks)
    known = entries(spec, family)
    places_of(local, known)
    shapes = hf_shapes(spec, family)
    stored = directory.shapes()
    for name, shape in stored.items():
        _check_shape(name, shape, shapes)
    _check_complete(set(stored), shapes)
    for entry in known:
        if not entry.megatron or entry.megatron in local:
            parts = {name: directory.read(name) for name in entry.huggingface}
            _assign(entry, local.get(entry.megatron), parts, spec)
    _copy_tied_output(chunks)


def _check_shape(name: str, shape: tuple[int, ...], shapes: dict[str, tuple[int, ...]]) -> None:
    if name not in shapes:
        raise ArtifactError(f"unexpected tensor {name}: the architecture has none of that name")
    if shape != shapes[name]:
        raise ArtifactError(f"tensor {name} has shape {list(shape)}, expected {list(shapes[name])}")


def _check_complete(seen: set[str], shapes: dict[str, tuple[int, ...]]) -> None:
    missing = [name for name in shapes if name not in seen]
    if missing:
        raise ArtifactError(f"{len(missing)} tensors are missing, the first is {missing[0]}")


def _assign(entry: Entry, parameter: torch.Tensor | None, parts: dict[str, torch.Tensor], spec: ModelSpec) -> None:
    if entry.kind == "zeros":
        for name, tensor in parts.items():
            if tensor.count_nonzero():
                raise ArtifactError(f"tensor {name} must be zero: the architecture has no place for it")
    elif parameter is not None:
        full = from_hf(entry, [parts[name] for name in entry.huggingface], spec)
        parameter.copy_(shard(full, parameter))


def _copy_tied_output(chunks: Sequence[torch.nn.Module]) -> None:
    """Bring a tied output projection that lives on another pipeline rank up to date."""
    if parallel_state.get_pipeline_model_parallel_world_size() == 1:
        return
    for model in map(unwrap, chunks):
        if model.share_embeddings_and_output_weights and model.pre_process != model.post_process:
            weight = model.shared_embedding_or_output_weight()
            if model.post_process:
                weight.zero_()
            dist.all_reduce(weight.data, group=parallel_state.get_embedding_group())
