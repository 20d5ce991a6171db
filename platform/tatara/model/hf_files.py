"""A sharded model as a directory of Hugging Face, written by its ranks in parallel."""

import itertools
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

import torch
import torch.distributed as dist

from tatara.model.hf import ShardedWeights
from tatara.model.hf_names import Entry, converted
from tatara.model.safetensors_files import Described, TensorFile, numbered, write_index
from tatara.model.spec import ModelSpec


class _Listed(Protocol):
    """Weights of which it is known what they are."""

    def entries(self) -> list[Entry]:
        """All tensors, in the order of the stream."""

    def dtype(self, entry: Entry) -> torch.dtype:
        """Type of the numbers of a tensor."""


class Weights(_Listed, Protocol):
    """Weights that can be read one by one."""

    def read(self, entry: Entry) -> torch.Tensor | None:
        """The full Megatron tensor of an entry; None where only Hugging Face has one."""


def write_to_hf(
    chunks: Sequence[torch.nn.Module],
    spec: ModelSpec,
    directory: Path,
    max_shard_size: int,
    writers: Sequence[int] | None = None,
) -> None:
    """Write the weights as safetensors: ``model.safetensors``, or numbered files with an index.

    Files are shared out to the writing ranks, which get the tensors of theirs from the ranks that hold them and write
    them at once: no rank ever has more than two tensors beyond its part of the model. Collective over all ranks; on
    return everything is written.

    Args:
        chunks: What `build_model` returned, or the same wrapped for training.
        spec: The architecture.
        directory: Existing directory that every writing rank sees.
        max_shard_size: Largest file in bytes; a single larger tensor still makes one file.
        writers: Global ranks that write; None means all.

    Raises:
        ArtifactError: The model lacks a tensor of the architecture, or has one that it does not know.
        ConfigError: No Hugging Face architecture holds the model.
    """
    weights = ShardedWeights(chunks, spec)
    files = [[*group] for group in _files(weights, max_shard_size)]
    ranks = range(dist.get_world_size()) if writers is None else writers
    described = [{name: item for entry in group for name, item in _described(weights, entry)} for group in files]
    names = [numbered(number, len(files)) for number in range(len(files))]
    me = dist.get_rank()
    # One file per writer at a time, the tensors of these files in turn: all disks are busy.
    for first in range(0, len(files), len(ranks)):
        wave = range(first, min(first + len(ranks), len(files)))
        owners = {number: ranks[number - first] for number in wave}
        turns = itertools.zip_longest(*([(entry, owners[number]) for entry in files[number]] for number in wave))
        with ExitStack() as stack:
            mine = [
                stack.enter_context(TensorFile(directory / names[number], described[number]))
                for number in wave
                if owners[number] == me
            ]
            plan = [item for turn in turns for item in turn if item is not None]
            for _, name, tensor in weights.to_owners(plan):
                mine[0].write(name, tensor)
    if me == ranks[0] and len(files) > 1:
        write_index(directory, dict(zip(names, described, strict=True)))
    dist.barrier()


def write_stored(weights: Weights, spec: ModelSpec, directory: Path, max_shard_size: int) -> None:
    """Write weights that this process can read, one tensor at a time; see `write_to_hf`."""
    files = [*_files(weights, max_shard_size)]
    described = {
        numbered(number, len(files)): {name: item for entry in group for name, item in _described(weights, entry)}
        for number, group in enumerate(files)
    }
    for name, group in zip(described, files, strict=True):
        with TensorFile(directory / name, described[name]) as file:
            for entry in group:
                for tensor_name, tensor in converted(entry, weights.read(entry), spec, weights.dtype(entry)):
                    file.write(tensor_name, tensor)
    if len(files) > 1:
        write_index(directory, described)


def _described(weights: _Listed, entry: Entry) -> Iterator[tuple[str, Described]]:
    return ((name, (shape, weights.dtype(entry))) for name, shape in entry.parts)


def _files(weights: _Listed, max_shard_size: int) -> Iterator[list[Entry]]:
    """The tensors in the order of the stream, cut into files."""
    held: list[Entry] = []
    size = 0
    for entry in weights.entries():
        more = sum(torch.Size(shape).numel() for _, shape in entry.parts) * weights.dtype(entry).itemsize
        if held and size + more > max_shard_size:
            yield held
            held, size = [], 0
        held.append(entry)
        size += more
    yield held
