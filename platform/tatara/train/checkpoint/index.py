"""Reads boxes of the tensors of a distributed checkpoint, from whichever files hold parts of them."""

import io
import pickle
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.filesystem import FileSystemReader, _StorageInfo
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import LoadPlan, LoadPlanner, ReadItem
from torch.distributed.checkpoint.planner_helpers import create_read_items_for_chunk_list

from tatara.errors import ArtifactError
from tatara.train.checkpoint.files import METADATA, UNREADABLE, Slab


class Index:
    """What a distributed checkpoint holds."""

    def __init__(self, directory: Path) -> None:
        """Read it.

        Raises:
            ArtifactError: It is missing or unreadable.
        """
        self.directory = directory
        try:
            self._metadata: Metadata = FileSystemReader(directory).read_metadata()
            self.tensors: dict[str, TensorStorageMetadata] = {
                key: value
                for key, value in self._metadata.state_dict_metadata.items()
                if isinstance(value, TensorStorageMetadata)
            }
        except FileNotFoundError:
            raise ArtifactError(f"{directory} is not a distributed checkpoint: it has no {METADATA}") from None
        except (OSError, *UNREADABLE) as error:
            raise ArtifactError(f"{directory / METADATA} is unreadable ({type(error).__name__})") from None

    def empty(self) -> list[str]:
        """Names of what `write_index` was given as ``empty``."""
        return [name for name in self._metadata.state_dict_metadata if "._extra_state/" in name]

    def read(self, slabs: Sequence[Slab]) -> None:
        """Fill the tensors of boxes, converting types; boxes may lie across those that were written.

        Raises:
            ArtifactError: A tensor is not there, has another shape, or a file cannot be read.
        """
        plan = self._plan(slabs)
        reader = FileSystemReader(self.directory)
        reader.set_up_storage_reader(self._metadata, is_coordinator=False)
        # In the order of the files: a rank's part of a checkpoint is read from front to back.
        plan.sort(key=lambda item: (self._place(item).relative_path, self._place(item).offset))
        try:
            with torch.no_grad():
                reader.read_data(LoadPlan(plan), _Targets(slabs))
        except (OSError, RuntimeError, pickle.UnpicklingError, EOFError, ValueError, AssertionError) as error:
            told = " ".join(str(error).split())[:200]
            raise ArtifactError(f"{self.directory} cannot be read: {told or type(error).__name__}") from error

    def covers(self, slab: Slab) -> bool:
        """Whether all of a box is there."""
        stored = self.tensors.get(slab.key)
        if stored is None or tuple(stored.size) != slab.shape:
            return False
        return sum(item.lengths.numel() for item in _items(slab, 0, stored)) == slab.tensor.numel()

    def files(self, slabs: Sequence[Slab]) -> set[str]:
        """Names of the files that `read` would open for these boxes."""
        return {self._place(item).relative_path for item in self._plan(slabs)}

    def box(self, key: str, offsets: tuple[int, ...], sizes: tuple[int, ...]) -> torch.Tensor:
        """Read a box of a tensor into new memory; raises as `read`."""
        stored = self.tensors[key]
        target = torch.empty(sizes, dtype=stored.properties.dtype)
        self.read([Slab(key, tuple(stored.size), offsets, sizes, target)])
        return target

    def tensor(self, key: str) -> torch.Tensor:
        """Read a whole tensor into new memory; raises as `read`."""
        shape = tuple(self.tensors[key].size)
        return self.box(key, tuple(0 for _ in shape), shape)

    def _place(self, item: ReadItem) -> _StorageInfo:
        place: _StorageInfo = self._metadata.storage_data[item.storage_index]
        return place

    def _plan(self, slabs: Sequence[Slab]) -> list[ReadItem]:
        by_key: dict[str, list[int]] = {}
        for index, slab in enumerate(slabs):
            by_key.setdefault(slab.key, []).append(index)
        items = []
        for key, indices in by_key.items():
            stored = self.tensors.get(key)
            if stored is None:
                raise ArtifactError(f"{self.directory} lacks {key}, which this model has: another architecture?")
            shape = slabs[indices[0]].shape
            if tuple(stored.size) != shape:
                raise ArtifactError(
                    f"{self.directory} has {key} of shape {list(stored.size)}, but this model has {list(shape)}"
                )
            for index in indices:
                found = _items(slabs[index], index, stored)
                if sum(item.lengths.numel() for item in found) != slabs[index].tensor.numel():
                    raise ArtifactError(f"{self.directory} has only a part of {key}")
                items += found
        return items


def _items(slab: Slab, index: int, stored: TensorStorageMetadata) -> list[ReadItem]:
    """Reads that fill a box, the ``index``-th of those that are read together."""
    wanted = ChunkStorageMetadata(torch.Size(slab.offsets), torch.Size(slab.sizes))
    # The name tells the target which box is meant; where it is stored goes by the tensor's name.
    return [
        replace(item, storage_index=replace(item.storage_index, fqn=slab.key))
        for item in create_read_items_for_chunk_list(str(index), stored, [wanted])
    ]


class _Targets(LoadPlanner):
    """Tells PyTorch's reader where each box goes."""

    def __init__(self, slabs: Sequence[Slab]) -> None:
        self._slabs = slabs

    def set_up_planner(self, *_: Any, **__: Any) -> None:
        """Nothing to do: the plan is made by `Index`."""

    def create_local_plan(self) -> LoadPlan:
        """An empty one: the plan is made by `Index`."""
        return LoadPlan([])

    def create_global_plan(self, global_plan: list[LoadPlan]) -> list[LoadPlan]:
        """Unchanged."""
        return global_plan

    def finish_plan(self, central_plan: LoadPlan) -> LoadPlan:
        """Unchanged."""
        return central_plan

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        """Never asked for."""
        raise AssertionError(read_item)

    def resolve_tensor(self, read_item: ReadItem) -> torch.Tensor:
        """The part of a box's memory that is read."""
        target = self._slabs[int(read_item.dest_index.fqn)].tensor
        for dimension, (offset, length) in enumerate(zip(read_item.dest_offsets, read_item.lengths, strict=True)):
            target = target.narrow(dimension, offset, length)
        return target

    def commit_tensor(self, read_item: ReadItem, tensor: torch.Tensor) -> None:
        """It was copied in place."""
