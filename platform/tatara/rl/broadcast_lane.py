"""The calls of a broadcast that only their own end can end, in a thread that nobody has to wait for."""

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    import torch

SENDER = 0
"""Rank that has the weights."""


class Collective(Protocol):
    """Broadcasts bytes from rank 0 to the ranks of one group."""

    def broadcast(self, data: "torch.Tensor") -> "torch.Tensor":
        """Send the bytes of rank 0, or receive them; returns when they are there."""

    def close(self) -> None:
        """Break off what is under way and leave the group."""


class Gloo:
    """Between processes without GPUs."""

    def __init__(self, store: Any, rank: int, size: int, seconds: float) -> None:
        """Meet the others through a store; every call ends within ``seconds``."""
        from torch.distributed import PrefixStore, ProcessGroupGloo

        self._group = ProcessGroupGloo(PrefixStore("gloo", store), rank, size, timedelta(seconds=seconds))

    def broadcast(self, data: "torch.Tensor") -> "torch.Tensor":
        """See `Collective`."""
        from torch.distributed import BroadcastOptions

        options = BroadcastOptions()
        options.rootRank, options.rootTensor = SENDER, 0
        self._group.broadcast([data], options).wait()
        return data

    def close(self) -> None:
        """See `Collective`."""
        self._group.abort()


class Nccl:
    """Between GPUs, one process each: vLLM's communicator, which has no watchdog that ends the process."""

    def __init__(self, store: Any, rank: int, size: int, seconds: float) -> None:
        """Meet the others through a store; nothing here ends on its own when another rank dies."""
        import torch
        from torch.distributed import PrefixStore
        from vllm.distributed.device_communicators.pynccl import PyNcclCommunicator
        from vllm.distributed.utils import StatelessProcessGroup
        from vllm.utils.nccl import unpinned_nccl_env

        self._rank = rank
        # Where the process's GPU is: another thread begins at the first one.
        group = StatelessProcessGroup(rank=rank, world_size=size, store=PrefixStore("nccl", store))
        with unpinned_nccl_env():
            self._communicator = PyNcclCommunicator(group, device=torch.device("cuda", torch.cuda.current_device()))
        if self._communicator.disabled:
            raise RuntimeError("vLLM finds no NCCL")
        self._stream = torch.cuda.Stream()

    def broadcast(self, data: "torch.Tensor") -> "torch.Tensor":
        """See `Collective`; what was received is copied to the host."""
        import torch

        self._communicator.broadcast(data, src=SENDER, stream=self._stream)
        if self._rank == SENDER:
            self._stream.synchronize()
            return data
        kept = torch.empty(data.shape, dtype=data.dtype, pin_memory=True)
        with torch.cuda.stream(self._stream):
            kept.copy_(data, non_blocking=True)
        self._stream.synchronize()
        return kept

    def close(self) -> None:
        """See `Collective`."""
        self._communicator.destroy()


class Lane:
    """A member's thread for the calls of its group."""

    def __init__(self, backend: Literal["gloo", "nccl"], store: Any, rank: int, size: int, seconds: float) -> None:
        """Begin to form the group; `formed` tells when it is.

        Args:
            backend: What it sends with.
            store: Of the group.
            rank: In the group.
            size: Of the group.
            seconds: Longest time that a call should take.
        """
        self._calls: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None] = queue.SimpleQueue()
        self._collective: Collective | None = None
        self._device = _current_device() if backend == "nccl" else None
        kind = Gloo if backend == "gloo" else Nccl
        # A daemon: a call that never returns must not keep the process.
        threading.Thread(target=self._work, name="broadcast", daemon=True).start()
        self.formed = self._submit(lambda: self._form(kind, store, rank, size, seconds))

    def send(self, data: "torch.Tensor") -> "Future[torch.Tensor]":
        """Broadcast bytes that are ready."""
        return self._submit(lambda: self._broadcast(data))

    def receive(self, size: int) -> "Future[torch.Tensor]":
        """Take part in a broadcast of ``size`` bytes; the result is in the host's memory."""
        return self._submit(lambda: self._broadcast(self._room(size)))

    def close(self) -> None:
        """Leave the group; without waiting for a call that is stuck."""
        self._calls.put(None)
        if self._collective is not None:
            self._collective.close()

    def _submit(self, call: Callable[[], Any]) -> "Future[Any]":
        future: Future[Any] = Future()
        self._calls.put((call, future))
        return future

    def _work(self) -> None:
        if self._device is not None:
            import torch

            torch.cuda.set_device(self._device)
        while (given := self._calls.get()) is not None:
            call, future = given
            try:
                future.set_result(call())
            # Whatever it is, it is raised where somebody waits for the result.
            except Exception as error:
                future.set_exception(error)

    def _form(self, kind: Any, store: Any, rank: int, size: int, seconds: float) -> None:
        self._collective = kind(store, rank, size, seconds)

    def _broadcast(self, data: "torch.Tensor") -> "torch.Tensor":
        assert self._collective is not None
        return self._collective.broadcast(data)

    def _room(self, size: int) -> "torch.Tensor":
        import torch

        return torch.empty(size, dtype=torch.uint8, device=self._device or torch.device("cpu"))


def _current_device() -> "torch.device":
    import torch

    return torch.device("cuda", torch.cuda.current_device())
