"""Weights on their way from a trainer to engines: a few large buckets of bytes, each in the safetensors format."""

import json
import warnings
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, cast

from tatara.errors import EngineError

if TYPE_CHECKING:
    import numpy as np
    import torch

BUCKET_BYTES = 256 << 20
_ALIGNMENT = 8
_CODES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16", "float8_e4m3fn": "F8_E4M3"}


def buckets(
    stream: Iterable[tuple[str, "torch.Tensor"]], size: int = BUCKET_BYTES, dtype: "torch.dtype | None" = None
) -> "Iterator[np.ndarray]":
    """Pack a stream of weights; besides the bucket that was yielded, at most one more is in memory.

    Args:
        stream: Names and tensors, on any device.
        size: Bytes after which a bucket is closed; a larger tensor gets one of its own.
        dtype: Type to convert to; None keeps each tensor's.

    Yields:
        The bytes of each bucket, as ``uint8 [bytes]``: that travels through Ray's object store without a copy.

    Raises:
        EngineError: ``size`` is not positive.
    """
    if size < 1:
        raise EngineError(f"a bucket of weights needs at least 1 byte, not {size}")
    held: list[tuple[str, torch.Tensor]] = []
    full = 0
    for name, given in stream:
        tensor = given.detach()
        # A bucket outlives the loop that fills it, but not the next optimizer step: no copy until it is packed.
        tensor = tensor if dtype is None else tensor.to(dtype)
        if held and full + tensor.nbytes > size:
            yield _packed(held)
            held, full = [], 0
        held.append((name, tensor))
        full += tensor.nbytes
    if held:
        yield _packed(held)


def _packed(held: "list[tuple[str, torch.Tensor]]") -> "np.ndarray":
    """One bucket in the safetensors format (huggingface/safetensors, README)."""
    import numpy as np
    import torch

    header: dict[str, Any] = {}
    end = 0
    # Wide numbers first: then each is aligned to its width.
    ordered = sorted(held, key=lambda item: -item[1].itemsize)
    for name, tensor in ordered:
        start, end = end, end + tensor.nbytes
        code = _CODES.get(str(tensor.dtype).removeprefix("torch."))
        if code is None:
            raise EngineError(f"weights of type {tensor.dtype} cannot be sent to an engine ({name})")
        header[name] = {"dtype": code, "shape": list(tensor.shape), "data_offsets": [start, end]}
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % _ALIGNMENT)
    packed = np.empty(8 + len(encoded) + end, dtype=np.uint8)
    packed[:8] = np.frombuffer(len(encoded).to_bytes(8, "little"), dtype=np.uint8)
    packed[8 : 8 + len(encoded)] = np.frombuffer(encoded, dtype=np.uint8)
    body = torch.from_numpy(packed)[8 + len(encoded) :]
    for name, tensor in ordered:
        start, end = header[name]["data_offsets"]
        body[start:end].copy_(tensor.contiguous().flatten().view(torch.uint8))
    return packed


def described(bucket: "bytes | np.ndarray") -> dict[str, tuple[int, ...]]:
    """Names and shapes of what a bucket holds, without reading the tensors.

    Raises:
        EngineError: It is not a bucket, or is cut short.
    """
    return {name: tuple(entry["shape"]) for name, entry in _header(_view(bucket))[0].items()}


def unpacked(bucket: "bytes | np.ndarray") -> "Iterator[tuple[str, torch.Tensor]]":
    """The tensors of a bucket; they share its memory and must not be written to.

    Raises:
        EngineError: It is not a bucket, or is cut short.
    """
    import torch

    view = _view(bucket)
    header, start = _header(view)
    types = {code: getattr(torch, name) for name, code in _CODES.items()}
    for name, entry in header.items():
        first, last = entry["data_offsets"]
        dtype = types[entry["dtype"]]
        if first == last:
            yield name, torch.empty(entry["shape"], dtype=dtype)
            continue
        with warnings.catch_warnings():
            # Bytes and what Ray hands out are read-only, and nobody writes to them.
            warnings.filterwarnings("ignore", message="The given buffer is not writable")
            flat = torch.frombuffer(view, dtype=torch.uint8, count=last - first, offset=start + first)
        yield name, flat.view(dtype).view(entry["shape"])


def _view(bucket: "bytes | np.ndarray") -> memoryview:
    # Arrays are buffers, which Python's typing can say from 3.12 on only.
    return memoryview(cast(bytes, bucket))


def _header(view: memoryview) -> tuple[dict[str, Any], int]:
    """The header of a bucket, and where its tensors begin."""
    try:
        length = int.from_bytes(view[:8], "little")
        header = json.loads(bytes(view[8 : 8 + length]))
        header.pop("__metadata__", None)
        end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise EngineError(f"a bucket of weights cannot be read: {type(error).__name__} {error}") from None
    if 8 + length + end != view.nbytes:
        raise EngineError(f"a bucket of weights has {view.nbytes} bytes, its header says {8 + length + end}")
    return header, 8 + length
