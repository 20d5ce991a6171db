"""A frozen copy of an engine's weights, to compare its policy with."""

import contextlib
from collections.abc import Iterator

import torch

from tatara.model.megatron import global_buffers
from tatara.model.parameters import unwrap
from tatara.train.checkpoint.staging import settle
from tatara.train.engine import Engine


class Reference:
    """The weights that an engine had when this was made, in the engine's layout and on its device.

    It costs as much memory as the weights; the optimizer is not copied. To have the same reference after a restart,
    make it before a checkpoint is loaded.
    """

    def __init__(self, engine: Engine) -> None:
        """Copy the engine's present weights."""
        self._engine = engine
        self._weights = [tensor.detach().clone() for tensor in self._live()]

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Give the engine these weights while the block runs, and its own back after it; no training inside."""
        settle(self._engine)
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for live, kept in zip(self._live(), self._weights, strict=True):
            own = live.clone()
            live.copy_(kept)
            kept.copy_(own)

    def _live(self) -> list[torch.Tensor]:
        # All of each chunk, a pipeline's second copy of tied embeddings too.
        parameters = [parameter.data for chunk in self._engine.chunks for parameter in unwrap(chunk).parameters()]
        return parameters + [buffer for _, buffer in global_buffers(self._engine.chunks)]
