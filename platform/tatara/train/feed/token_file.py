"""Megatron's indexed token files, memory-mapped and read without torch."""

import struct
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tatara.errors import DataError

Int64 = npt.NDArray[np.int64]
_INDEX_MAGIC = b"MMIDIDX\x00\x00"
_INDEX_HEADER = struct.Struct("<9sQBQQ")
# The codes of megatron/core/datasets/indexed_dataset.py (DType) that can hold token ids.
_INDEX_DTYPES: dict[int, type[Any]] = {1: np.uint8, 3: np.int16, 4: np.int32, 5: np.int64, 8: np.uint16}


class TokenFile:
    """One Megatron ``IndexedDataset`` (``.bin`` and ``.idx``), memory-mapped; a sequence in it is a document."""

    def __init__(self, prefix: Path) -> None:
        """Open ``<prefix>.bin`` and ``<prefix>.idx``.

        Raises:
            DataError: A file is missing, is no index, or the two do not belong together.
        """
        self.path = Path(f"{prefix}.bin")
        index = Path(f"{prefix}.idx")
        try:
            raw = np.memmap(index, mode="r") if index.stat().st_size else np.zeros(0, np.uint8)
            size = self.path.stat().st_size
        except OSError as error:
            raise DataError(f"cannot read the tokens at {prefix}: {error}") from None
        if len(raw) < _INDEX_HEADER.size:
            raise DataError(f"{index} is cut short: {len(raw)} bytes hold no index header")
        magic, version, code, count, documents = _INDEX_HEADER.unpack_from(raw[: _INDEX_HEADER.size].tobytes())
        if magic != _INDEX_MAGIC or version != 1 or code not in _INDEX_DTYPES:
            raise DataError(f"{index} is not a Megatron index of token ids (version {version}, type code {code})")
        expected = _INDEX_HEADER.size + 12 * count + 8 * documents
        if len(raw) < expected:
            raise DataError(f"{index} is cut short: {len(raw)} bytes, {count} documents need {expected}")
        self.dtype = np.dtype(_INDEX_DTYPES[code])
        start = _INDEX_HEADER.size
        self.lengths: npt.NDArray[np.int32] = np.frombuffer(raw, np.int32, count, start)
        self._pointers: Int64 = np.frombuffer(raw, np.int64, count, start + 4 * count)
        needed = int((self._pointers + self.lengths.astype(np.int64) * self.dtype.itemsize).max(initial=0))
        if size < needed:
            raise DataError(f"{self.path} is cut short: {size} bytes, its index needs {needed}")
        self._tokens = np.memmap(self.path, dtype=self.dtype, mode="r") if size else np.zeros(0, self.dtype)

    def read(self, document: int, offset: int, length: int) -> npt.NDArray[Any]:
        """Tokens ``[offset, offset + length)`` of a document, shape ``[length]``, without a copy."""
        start = int(self._pointers[document]) // self.dtype.itemsize + offset
        return self._tokens[start : start + length]

    def places(self, documents: Int64, offsets: Int64) -> Int64:
        """Where tokens of documents lie in the file, counted in tokens, shape ``[n]``."""
        return self._pointers[documents] // self.dtype.itemsize + offsets

    def gather(self, places: Int64) -> npt.NDArray[Any]:
        """The tokens at places in the file, shape ``[n]``."""
        return self._tokens[places]

    def __len__(self) -> int:
        return len(self._tokens)
