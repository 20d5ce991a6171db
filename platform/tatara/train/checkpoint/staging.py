"""A copy of what is to be written, taken while the next step computes its gradients.

Weights and optimizer state only change in the optimizer's update. A thread copies them meanwhile into host memory that
is kept from one checkpoint to the next (pinned where there is a GPU), and the update waits for it, if it has to. So
training stands still for a copy only as far as the copy is slower than a forward and backward pass.
"""

import threading
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from tatara.train.checkpoint.files import Slab
from tatara.train.checkpoint.state import inner_optimizers

if TYPE_CHECKING:
    from tatara.train.engine import Engine

_STAGINGS: "weakref.WeakKeyDictionary[Engine, Staging]" = weakref.WeakKeyDictionary()


def settle(engine: "Engine") -> None:
    """Wait until an engine's state may be changed; whoever changes it outside of a step calls this first."""
    staging = _STAGINGS.get(engine)
    if staging is not None:
        staging.wait()


class Staging:
    """Host memory for the boxes of one rank."""

    def __init__(self, engine: "Engine") -> None:
        """Have the engine's optimizers wait for copies that are under way."""
        self._device = engine.device
        self._memory: list[torch.Tensor] = []
        self._copied: threading.Event | None = None
        self._copies: Any = None
        self.waited = 0.0
        """Seconds that updates had to wait so far."""
        _STAGINGS[engine] = self
        for each in inner_optimizers(engine):
            each.optimizer.register_step_pre_hook(_waiting(weakref.ref(self)))

    def begin(self) -> None:
        """From now on the state must not change, until `copy` is done in another thread."""
        self._copied = threading.Event()
        self._copies = None
        if self._device.type == "cuda":
            self._computed = torch.cuda.Event()
            self._computed.record()

    def wait(self) -> None:
        """Wait for a copy that is under way."""
        if self._copied is None:
            return
        started = time.perf_counter()
        self._copied.wait()
        if self._copies is not None:
            torch.cuda.current_stream(self._device).wait_event(self._copies)
        self._copied = None
        self.waited += time.perf_counter() - started

    def copy(self, slabs: Sequence[Slab]) -> list[Slab]:
        """Copy; the same boxes in host memory that does not change until the next `begin`."""
        copied = self._copied
        assert copied is not None
        try:
            with torch.no_grad():
                self._allocate(slabs)
                if self._device.type == "cuda":
                    self._copy_from_gpu(slabs)
                else:
                    for slab, memory in zip(slabs, self._memory, strict=True):
                        memory.copy_(slab.tensor)
        finally:
            copied.set()
        if self._copies is not None:
            self._copies.synchronize()
        return [replace(slab, tensor=memory) for slab, memory in zip(slabs, self._memory, strict=True)]

    def _copy_from_gpu(self, slabs: Sequence[Slab]) -> None:
        stream = torch.cuda.Stream(self._device)
        with torch.cuda.stream(stream):
            stream.wait_event(self._computed)
            for slab, memory in zip(slabs, self._memory, strict=True):
                memory.copy_(slab.tensor, non_blocking=True)
            copies = torch.cuda.Event()
            copies.record()
        self._copies = copies

    def _allocate(self, slabs: Sequence[Slab]) -> None:
        shapes = [(slab.tensor.shape, slab.tensor.dtype) for slab in slabs]
        if shapes != [(memory.shape, memory.dtype) for memory in self._memory]:
            self._memory = []
            pinned = self._device.type == "cuda"
            self._memory = [torch.empty(shape, dtype=dtype, pin_memory=pinned) for shape, dtype in shapes]


def _waiting(staging: "weakref.ref[Staging]") -> Callable[..., None]:
    def wait(*_: Any) -> None:
        found = staging()
        if found is not None:
            found.wait()

    return wait
