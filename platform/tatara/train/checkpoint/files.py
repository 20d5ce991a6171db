"""The files of a distributed checkpoint: PyTorch's (``.distcp`` and ``.metadata``) with Megatron's ``common.pt``.

Megatron's `dist_checkpointing.load` and PyTorch's own tools read them. They are written here rather than through
Megatron's strategies because the plan is known without talking to other ranks, and so that every byte is hashed on its
way to the disk.
"""

import io
import json
import os
import pickle
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import xxhash
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
)

METADATA = ".metadata"
_CHUNK = 1 << 22
_COMMON = "common.pt"
_NOTHING = "__nothing.distcp"
_FORMAT = "metadata.json"
# What an unreadable pickle may raise.
UNREADABLE = (pickle.UnpicklingError, EOFError, AttributeError, ImportError, IndexError, ValueError)
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
