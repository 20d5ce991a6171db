"""Safetensors files as transformers and vLLM read them, written and read one tensor at a time."""

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import torch
from safetensors import SafetensorError, safe_open

from tatara.errors import ArtifactError

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
_CODES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
_ALIGNMENT = 8

Described = tuple[tuple[int, ...], torch.dtype]
"""Shape and type of a tensor."""


def numbered(number: int, of: int) -> str:
    """Name of the n-th file (from 0) of a model."""
    return SINGLE if of == 1 else f"model-{number + 1:05d}-of-{of:05d}.safetensors"


class TensorFile:
    """A safetensors file in the making; each tensor goes to the disk at once, in any order.

    The format (huggingface/safetensors, README): the header's length in 8 bytes, the header in JSON, then the tensors
    without gaps.
    """

    def __init__(self, path: Path, tensors: Mapping[str, Described]) -> None:
        """Begin a file.

        Args:
            path: Where to.
            tensors: Everything that will be written.
        """
        self._path = path
        self._places: dict[str, tuple[int, int, Described]] = {}
        # Wide numbers first: then each is aligned to its width.
        end = 0
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        for name, (shape, dtype) in sorted(tensors.items(), key=lambda item: -item[1][1].itemsize):
            start, end = end, end + torch.Size(shape).numel() * dtype.itemsize
            self._places[name] = (start, end, (shape, dtype))
            header[name] = {"dtype": _CODES[dtype], "shape": list(shape), "data_offsets": [start, end]}
        encoded = json.dumps(header, separators=(",", ":")).encode()
        encoded += b" " * (-len(encoded) % _ALIGNMENT)
        self._start = 8 + len(encoded)
        self._file: IO[bytes] = path.open("wb")
        self._file.write(len(encoded).to_bytes(8, "little") + encoded)
        self._file.truncate(self._start + end)

    def write(self, name: str, tensor: torch.Tensor) -> None:
        """Write one of the tensors.

        Raises:
            ArtifactError: It was not announced like this, or is written already.
        """
        start, _, described = self._places.pop(name, (0, 0, None))
        if described != (tuple(tensor.shape), tensor.dtype):
            raise ArtifactError(f"{self._path}: tensor {name} is not what was to be written, or is written twice")
        self._file.seek(self._start + start)
        self._file.write(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()
        if error is None and self._places:
            raise ArtifactError(f"{self._path} lacks tensor {next(iter(self._places))}")


class TensorDirectory:
    """The tensors of a model's directory: one safetensors file, or several with an index."""

    def __init__(self, path: Path) -> None:
        """Read the headers of its files.

        Raises:
            ArtifactError: There is no safetensors file, one is damaged, or they are not what the index says.
        """
        self._files: dict[str, Path] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._codes: dict[str, str] = {}
        for name, tensors in _listed(path).items():
            with _opened(path / name) as file:
                slices = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118
                found = {key: tuple(item.get_shape()) for key, item in slices.items()}
                self._codes |= {key: item.get_dtype() for key, item in slices.items()}
            if tensors is not None and found.keys() != tensors:
                wrong = min(found.keys() ^ tensors)
                raise ArtifactError(f"{path / name} is not what {INDEX} says: {wrong} is in one of them only")
            self._files |= dict.fromkeys(found, path / name)
            self._shapes |= found

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each tensor."""
        return dict(self._shapes)

    def dtypes(self) -> dict[str, str]:
        """Name of each tensor's type, as torch calls it where it is a usual one."""
        names = {code: str(dtype).removeprefix("torch.") for dtype, code in _CODES.items()}
        return {name: names.get(self._codes[name], self._codes[name]) for name in self._shapes}

    def leave_out(self, names: Iterable[str]) -> None:
        """Do as if these tensors were not there."""
        for name in names:
            del self._files[name], self._shapes[name]

    def read(self, name: str) -> torch.Tensor:
        """Read one tensor.

        Raises:
            ArtifactError: Its file cannot be read any more.
        """
        with _opened(self._files[name]) as file:
            tensor: torch.Tensor = file.get_tensor(name)
            return tensor

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Every tensor, read when it is asked for."""
        for name in self._files:
            yield name, self.read(name)


def write_index(directory: Path, files: Mapping[str, Mapping[str, Described]]) -> None:
    """Write the index of several files.

    Args:
        directory: Where to.
        files: Name of each file to its tensors.
    """
    sizes = (torch.Size(shape).numel() * dtype.itemsize for held in files.values() for shape, dtype in held.values())
    index = {
        "metadata": {"total_size": sum(sizes)},
        "weight_map": {tensor: name for name, held in files.items() for tensor in held},
    }
    (directory / INDEX).write_text(json.dumps(index, indent=1) + "\n")


def _listed(path: Path) -> dict[str, set[str] | None]:
    """The files of a model, and the tensors of each as far as it is said."""
    index = path / INDEX
    if not index.is_file():
        if not (path / SINGLE).is_file():
            raise ArtifactError(f"{path} holds neither {SINGLE} nor {INDEX}: weights in safetensors are needed")
        return {SINGLE: None}
    try:
        weight_map = dict(json.loads(index.read_text())["weight_map"])
    except (ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{index} cannot be read: {type(error).__name__}: {error}") from None
    listed: dict[str, set[str] | None] = {}
    for tensor, name in weight_map.items():
        if not (path / name).is_file():
            raise ArtifactError(f"{path} lacks {name}, which {INDEX} names")
        held = listed.setdefault(name, set())
        assert held is not None
        held.add(tensor)
    return listed


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """`safe_open` whose errors name the file."""
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise ArtifactError(f"{path} cannot be read as safetensors, is it complete? ({error})") from None
