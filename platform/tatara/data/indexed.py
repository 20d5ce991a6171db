"""Megatron's indexed token files, written without importing Megatron or torch.

The format of ``megatron/core/datasets/indexed_dataset.py``: ``.bin`` is the tokens of all sequences one after the
other; ``.idx`` is a header, then each sequence's length (int32, tokens) and start (int64, bytes) and, for each
document, its first sequence. Here every document is one sequence.
"""

import struct
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike, NDArray

_HEADER = b"MMIDIDX\x00\x00"
_VERSION = 1
_TYPE_CODES = {np.dtype(np.int32): 4, np.dtype(np.uint16): 8}
_LARGEST_UINT16_VOCABULARY = 65_500


def token_type(vocab_size: int) -> np.dtype[np.generic]:
    """The type that Megatron stores tokens in for a vocabulary of this size."""
    return np.dtype(np.uint16) if vocab_size < _LARGEST_UINT16_VOCABULARY else np.dtype(np.int32)


def write_index(path: Path, lengths: NDArray[np.integer], dtype: DTypeLike) -> None:
    """Write the ``.idx`` beside a ``.bin``.

    Args:
        path: The ``.idx`` file.
        lengths: Tokens of each document: ``[documents]``.
        dtype: Type of a token in the ``.bin``.
    """
    kind = np.dtype(dtype)
    sizes = np.asarray(lengths, np.int64)
    starts = np.zeros(len(sizes), np.int64)
    np.cumsum(sizes[:-1] * kind.itemsize, out=starts[1:])
    with path.open("wb") as file:
        file.write(_HEADER)
        file.write(struct.pack("<QBQQ", _VERSION, _TYPE_CODES[kind], len(sizes), len(sizes) + 1))
        file.write(sizes.astype("<i4").tobytes())
        file.write(starts.astype("<i8").tobytes())
        file.write(np.arange(len(sizes) + 1, dtype="<i8").tobytes())
