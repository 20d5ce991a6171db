"""What is broadcast: a few large buckets of bytes on the sending device, and what is said of each."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    Named = tuple[str, torch.Tensor]


def grouped(stream: "Iterable[Named]", size: int) -> "Iterator[list[Named]]":
    """Tensors that go together, of about ``size`` bytes; a larger one goes alone."""
    held: list[Named] = []
    full = 0
    for name, tensor in stream:
        if held and full + tensor.nbytes > size:
            yield held
            held, full = [], 0
        held.append((name, tensor.detach()))
        full += tensor.nbytes
    if held:
        yield held


def packed(held: "list[Named]", backend: str) -> "tuple[list[list[Any]], torch.Tensor]":
    """What a bucket holds, as [name, type, shape, first byte, last byte], and its bytes, on the sending device."""
    import torch

    header: list[list[Any]] = []
    end = 0
    # Wide numbers first: then each is aligned to its width.
    ordered = sorted(held, key=lambda item: -item[1].itemsize)
    for name, tensor in ordered:
        start, end = end, end + tensor.nbytes
        header.append([name, str(tensor.dtype).removeprefix("torch."), list(tensor.shape), start, end])
    device = torch.device("cuda", torch.cuda.current_device()) if backend == "nccl" else torch.device("cpu")
    # Nothing cannot be broadcast.
    data = torch.empty(max(end, 1), dtype=torch.uint8, device=device)
    for (_, tensor), (*_, start, last) in zip(ordered, header, strict=True):
        data[start:last].copy_(tensor.contiguous().flatten().view(torch.uint8))
    if backend == "nccl":
        torch.cuda.current_stream().synchronize()
    return header, data


def tensor_of(data: "torch.Tensor", dtype: str, shape: list[int], first: int, last: int) -> "torch.Tensor":
    """A tensor of a bucket that was received; it shares the bucket's memory."""
    import torch

    kind: torch.dtype = getattr(torch, dtype)
    if first == last:
        return torch.empty(shape, dtype=kind)
    return data[first:last].view(kind).view(shape)
