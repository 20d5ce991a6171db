"""The files of a distributed checkpoint: PyTorch's (``.distcp`` and ``.metadata``) with Megatron's ``common.pt``.

Megatron's `dist_checkpointing.load` and PyTorch's own tools read them. They are written here rather than through
Megatron's strategies because the plan is known without talking to other ranks, and so that every byte is hashed on its
way to the disk.
"""

import io
import json
import os
import pickle
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import xxhash
from torch.distributed.checkpoint.filesystem import FileSystemReader, _StorageInfo
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import LoadPlan, LoadPlanner, ReadItem
from torch.distributed.checkpoint.planner_helpers import create_read_items_for_chunk_list

from tatara.errors import ArtifactError

METADATA = ".metadata"
_CHUNK = 1 << 22
_COMMON = "common.pt"
_NOTHING = "__nothing.distcp"
_FORMAT = "metadata.json"
# What an unreadable pickle may raise.
_UNREADABLE = (pickle.UnpicklingError, EOFError, AttributeError, ImportError, IndexError, ValueError)
# What Megatron's loader looks at first.
_BACKEND = {
    "sharded_backend": "torch_dist",
    "sharded_backend_version": 1,
    "common_backend": "torch",
    "common_backend_version": 1,
}


@dataclass(frozen=True)
class Slab:
    """A box of a named global tensor, and the memory it is read from or written to.

    Attributes:
        key: Name of the global tensor.
        shape: Of the global tensor.
        offsets: Of the box.
        sizes: Of the box.
        tensor: ``[*sizes]``, contiguous.
    """

    key: str
    shape: tuple[int, ...]
    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    tensor: torch.Tensor


@dataclass(frozen=True)
class Stored:
    """Where one box of a tensor went."""

    key: str
    shape: tuple[int, ...]
    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    dtype: torch.dtype
    file: str
    begins: int
    length: int


class HashingFile(io.RawIOBase):
    """A file that is hashed while it is written (xxh3, 128 bits)."""

    def __init__(self, path: Path) -> None:
        """Create the file."""
        super().__init__()
        self._file = open(path, "wb")  # noqa: SIM115
        self._hash = xxhash.xxh3_128()
        self.failure: OSError | None = None
        """What the system said; torch's archive writer hides it."""

    def writable(self) -> bool:
        """It is."""
        return True

    def write(self, data: Any) -> int:
        """Write and hash."""
        try:
            written = self._file.write(data)
        except OSError as error:
            self.failure = error
            raise
        self._hash.update(data)
        return written

    def tell(self) -> int:
        """Bytes so far."""
        return self._file.tell()

    def flush(self) -> None:
        """Hand everything to the system."""
        if not self._file.closed:
            self._file.flush()

    def finish(self) -> str:
        """Bring everything to the disk; returns the hash."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self.close()
        return f"xxh3:{self._hash.hexdigest()}"

    def close(self) -> None:
        """Close the file as it is."""
        try:
            self._file.close()
        finally:
            super().close()


def write_bytes(path: Path, data: bytes) -> str:
    """Write a small file; returns its hash."""
    with HashingFile(path) as file:
        file.write(data)
        return file.finish()


def write_slabs(path: Path, slabs: Iterable[Slab]) -> tuple[list[Stored], str]:
    """Write boxes to one file; returns where each went, and the file's hash.

    Raises:
        OSError: The disk is full, or cannot be written.
    """
    written = []
    with HashingFile(path) as file:
        try:
            for slab in slabs:
                begins = file.tell()
                torch.save(_alone(slab.tensor), file)
                where = (path.name, begins, file.tell() - begins)
                written.append(Stored(slab.key, slab.shape, slab.offsets, slab.sizes, slab.tensor.dtype, *where))
            return written, file.finish()
        except RuntimeError as error:
            if file.failure is not None:
                raise file.failure from error
            raise


def _alone(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor with a storage of its own size: torch saves storages whole."""
    tensor = tensor.detach()
    whole = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
    return tensor if whole else tensor.clone()


def hash_of(path: Path) -> str:
    """Hash of a file's content as `HashingFile` tells it."""
    digest = xxhash.xxh3_128()
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return f"xxh3:{digest.hexdigest()}"


def write_index(
    directory: Path, written: Iterable[Stored], common: Mapping[str, Any], empty: Iterable[str] = ()
) -> dict[str, str]:
    """Write what makes the files of all ranks one checkpoint.

    Args:
        directory: Where the ranks' files are.
        written: Of all ranks.
        empty: Names of objects that are None, for Megatron's loader.
        common: Further JSON-able values for ``common.pt``.

    Returns:
        Hashes of the files, by name.
    """
    tensors: dict[str, Any] = {}
    places = {}
    for each in written:
        known = tensors.setdefault(
            each.key, TensorStorageMetadata(TensorProperties(dtype=each.dtype), torch.Size(each.shape), [])
        )
        known.chunks.append(ChunkStorageMetadata(torch.Size(each.offsets), torch.Size(each.sizes)))
        places[MetadataIndex(each.key, each.offsets)] = _StorageInfo(each.file, each.begins, each.length)
    # Megatron stores a list per name.
    nothing = _pickled([None])
    for name in empty:
        tensors[name] = BytesStorageMetadata()
        places[MetadataIndex(name)] = _StorageInfo(_NOTHING, 0, len(nothing))
    metadata = Metadata(tensors, planner_data={}, storage_data=places, storage_meta=StorageMeta())
    return {
        _NOTHING: write_bytes(directory / _NOTHING, nothing),
        METADATA: write_bytes(directory / METADATA, pickle.dumps(metadata)),
        _COMMON: write_bytes(directory / _COMMON, _pickled(dict(common))),
        _FORMAT: write_bytes(directory / _FORMAT, json.dumps(_BACKEND).encode()),
    }


def _pickled(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


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
        except (OSError, *_UNREADABLE) as error:
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
