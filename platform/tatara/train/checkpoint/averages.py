"""Averages of the weights over training, sharded like the optimizer's state.

Each data-parallel rank averages the float32 range of each parameter that its part of the distributed optimizer owns, so
an average costs 4 bytes per parameter over all ranks of a replica together. It is saved under names of its own, and
resharded like moments.
"""

import contextlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Literal

import torch

from tatara.train.checkpoint import state
from tatara.train.checkpoint.names import EMA, last_prefix, snapshots
from tatara.train.checkpoint.staging import settle

if TYPE_CHECKING:
    from tatara.train.checkpoint.index import Index
    from tatara.train.engine import Engine


class WeightAverage:
    """An average of an engine's weights.

    ``ema`` is the exponential moving average (arXiv:1806.05594 section 3.2 compares it with others): after an update
    with weights w it is ``decay * average + (1 - decay) * w``, from the weights that it was made with.

    ``last`` is the mean of the last few snapshots (LAWA, arXiv:2209.14981; Llama 3, arXiv:2407.21783 section 3.1.3,
    averages checkpoints during annealing). A sliding mean has to forget, so the snapshots are kept, in host memory: 4
    bytes per parameter and snapshot, over all ranks of a replica together, and as much in each checkpoint.
    """

    def __init__(
        self, engine: "Engine", kind: Literal["ema", "last"], *, decay: float = 0.999, every: int = 1, last: int = 5
    ) -> None:
        """Start from the engine's present weights.

        Args:
            engine: Whose weights are averaged; frozen ones and buffers are not, they are what they are.
            kind: ``ema`` or ``last``.
            decay: Of ``ema``: what remains of the average at an update.
            every: Steps between updates; for ``last``, between snapshots.
            last: Snapshots that ``last`` is the mean of.
        """
        self._engine, self.kind = engine, kind
        self.decay, self.every, self.last = decay, every, last
        self._shards = {id(each.value): each.shard for each in state.tensors_of(engine) if each.shard is not None}
        self._averages: dict[int, torch.Tensor] = {}
        self._snapshots: list[dict[int, torch.Tensor]] = []
        if kind == "ema":
            self._averages = self._weights()

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after a step; call it after each.

        Args:
            step: Steps trained so far; only multiples of ``every`` count.
        """
        if step % self.every:
            return
        settle(self._engine)
        if self.kind == "ema":
            for key, average in self._averages.items():
                average.mul_(self.decay).add_(self._main(key), alpha=1.0 - self.decay)
        else:
            self._snapshots = [*self._snapshots, self._weights()][-self.last :]

    def ranges(self) -> Mapping[int, Mapping[str, torch.Tensor]]:
        """What a checkpoint keeps: by the parameter's `id`, float32 ranges like the optimizer's shard by prefix."""
        if self.kind == "ema":
            return {key: {EMA: average} for key, average in self._averages.items()}
        return {
            key: {last_prefix(place): snapshot[key] for place, snapshot in enumerate(self._snapshots)}
            for key in self._shards
        }

    def prepare(self, index: "Index") -> None:
        """Make memory for as many snapshots as a checkpoint has, if it has any."""
        if self.kind == "last":
            self._snapshots = [self._weights() for _ in range(snapshots(index.tensors.keys()))]

    def memory(self, tensor: state.Tensor) -> Mapping[str, torch.Tensor]:
        """Where a parameter's part of a checkpoint's average is to be loaded."""
        return self.ranges().get(id(tensor.value), {})

    def loaded(self) -> None:
        """Forget snapshots beyond those wanted."""
        self._snapshots = self._snapshots[-self.last :]

    @contextlib.contextmanager
    def swapped(self) -> Iterator[None]:
        """Give the engine the averaged weights while the block runs, for a validation or an export; collective.

        Before the first snapshot of kind ``last`` the weights stay as they are.
        """
        settle(self._engine)
        kept = self._weights()
        self._set({key: self._mean(key) for key in self._shards})
        try:
            yield
        finally:
            self._set(kept)

    def _mean(self, key: int) -> torch.Tensor:
        if self.kind == "ema":
            return self._averages[key]
        if not self._snapshots:
            return self._main(key)
        return torch.stack([snapshot[key] for snapshot in self._snapshots]).double().mean(0).float()

    def _main(self, key: int) -> torch.Tensor:
        return self._shards[key].main.detach().view(-1)

    def _weights(self) -> dict[int, torch.Tensor]:
        device = self._engine.device if self.kind == "ema" else "cpu"
        return {key: self._main(key).to(device, torch.float32, copy=True) for key in self._shards}

    @torch.no_grad()
    def _set(self, weights: Mapping[int, torch.Tensor]) -> None:
        for key, value in weights.items():
            self._main(key).copy_(value)
        for optimizer in state.inner_optimizers(self._engine):
            optimizer._copy_main_params_to_model_params()
        for chunk in self._engine.chunks:
            chunk.start_param_sync(force_sync=True)
