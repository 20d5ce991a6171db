"""What of an engine goes into a checkpoint, named so that every other layout finds its part.

Weights have Megatron's own keys and shapes (its loader reads them). The optimizer's moments and float32 copies are kept
by the distributed optimizer as flat ranges of each parameter, one per data-parallel rank. Each rank writes the range it
owns as the few boxes it covers (`boxes`) of a tensor that is named after the parameter, and reads the boxes it needs.
Nothing is gathered, nothing is written twice, and no data-parallel size, bucket or number of chained optimizers shows.

Megatron's own ways were weighed against this:

- ``fully_reshardable`` gathers the whole optimizer state of a model shard on one data-parallel rank (or on all) at each
  save: 12 bytes per parameter of the shard. Llama 3 405B at tp 8, pp 16 has 3.2 billion per shard, so 38 GB gathered
  through one host while all others wait. It also stores the optimizers of dense and expert parameters as a list when
  there are two, and bare when there is one, in the part that is not sharded. Experts only have an optimizer of their
  own when ep > 1, hence the KeyError when ep 2 is loaded as ep 1.
- ``dp_reshardable`` gathers nothing, but stores buckets: only the same model-parallel layout can load it.
- ``fully_sharded_model_space`` is the scheme used here, but needs flattened tensor shards, which 0.16 removed.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from megatron.core.dist_checkpointing.dict_utils import nested_values
from megatron.core.dist_checkpointing.mapping import ShardedObject, ShardedTensor, ShardedTensorFactory, is_main_replica

from tatara.errors import EngineError
from tatara.train.checkpoint.boxes import boxes_of
from tatara.train.checkpoint.files import Slab
from tatara.train.checkpoint.names import MASTER, MOMENTS, moment_key

if TYPE_CHECKING:
    from tatara.train.engine import Engine


@dataclass(frozen=True)
class Piece:
    """A contiguous part of a local tensor that is a box of one global tensor.

    A gated matrix is two pieces, since its halves are sharded each on its own.

    Attributes:
        key: Name of the global tensor.
        shape: Of the global tensor.
        leading: Offsets in dimensions that only the global tensor has (layer, expert).
        offsets: Offsets in the local tensor's dimensions.
        sizes: Of the local tensor's dimensions.
        start: First element in the local tensor.
        first: Whether this is the copy to write, of those that tensor and pipeline parallelism replicate.
        only: The same, of those that data parallelism replicates too.
    """

    key: str
    shape: tuple[int, ...]
    leading: tuple[int, ...]
    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    start: int
    first: bool
    only: bool

    def slabs(self, key: str, flat: torch.Tensor, begins: int) -> Iterator[Slab]:
        """The boxes of this piece that a flat range covers.

        Args:
            key: Name to give them.
            flat: The range, contiguous and of one dimension.
            begins: Element of the local tensor that the range begins with.
        """
        size = 1
        for length in self.sizes:
            size *= length
        low, high = max(begins, self.start), min(begins + flat.numel(), self.start + size)
        at = low - begins
        for offsets, sizes in boxes_of(self.sizes, low - self.start, high - self.start):
            where = tuple(base + offset for base, offset in zip(self.offsets, offsets, strict=True))
            extent = (*(1 for _ in self.leading), *sizes)
            count = torch.Size(extent).numel()
            yield Slab(key, self.shape, (*self.leading, *where), extent, flat[at : at + count].view(extent))
            at += count


@dataclass(frozen=True)
class Tensor:
    """A parameter or buffer of the model and where it belongs.

    Attributes:
        value: The parameter or buffer.
        pieces: Its parts.
        shard: What this rank's optimizer owns of it; None for what is not trained, or is owned elsewhere.
        trained: Whether some optimizer trains it.
    """

    value: torch.Tensor
    pieces: tuple[Piece, ...]
    shard: "Shard | None"
    trained: bool

    def owned(self) -> torch.Tensor:
        """The flat range of the value itself that `shard` is about."""
        assert self.shard is not None
        return self.value.detach().view(-1)[self.shard.start : self.shard.end]


@dataclass(frozen=True)
class Shard:
    """The flat range of a parameter that this rank's part of the distributed optimizer updates.

    Attributes:
        optimizer: The torch optimizer.
        group: Its parameter group.
        main: The float32 range; of a float32 model, a view of the parameter.
        start: First element of the parameter.
        end: One past the last.
    """

    optimizer: torch.optim.Optimizer
    group: int
    main: torch.Tensor
    start: int
    end: int

    def state(self) -> dict[str, Any]:
        """Adam's state, made (with zero moments) where the first step is still to come."""
        state: dict[str, Any] = self.optimizer.state[self.main]
        if not state:
            state.update({moment: torch.zeros_like(self.main) for moment in MOMENTS})
            if "step" not in self.optimizer.param_groups[self.group] and _counts_per_parameter(self.optimizer):
                state["step"] = torch.zeros((), dtype=torch.float32)
        return state

    @property
    def step(self) -> int:
        """Updates so far, which Adam's bias correction depends on."""
        counted = self.state().get("step", self.optimizer.param_groups[self.group].get("step", 0))
        return int(counted)

    def set_step(self, value: int) -> None:
        """Go on as after so many updates."""
        state = self.state()
        if "step" in state:
            state["step"] = torch.full_like(state["step"], value)
        else:
            # Fused optimizers count per group.
            self.optimizer.param_groups[self.group]["step"] = value


def _counts_per_parameter(optimizer: torch.optim.Optimizer) -> bool:
    return isinstance(optimizer, torch.optim.Adam | torch.optim.AdamW)


def tensors_of(engine: "Engine") -> list[Tensor]:
    """Every parameter and buffer that this rank holds; stays valid as long as the engine.

    Raises:
        EngineError: Megatron shards a tensor in a way that this module does not know.
    """
    shards = dict(_shards(engine))
    trained = {id(parameter) for chunk in engine.chunks for parameter in chunk.parameters() if parameter.requires_grad}
    found = []
    for chunk in engine.chunks:
        for item in nested_values(chunk.module.sharded_state_dict()):
            if isinstance(item, ShardedTensor | ShardedTensorFactory):
                value = item.data
                found.append(Tensor(value, _pieces(item), shards.get(id(value)), id(value) in trained))
            elif isinstance(item, ShardedObject) and item.data is not None:
                raise EngineError(f"{item.key} of the model is no tensor, which a checkpoint has no place for")
    return found


def empty_objects_of(engine: "Engine") -> list[str]:
    """Names of the objects that Megatron's modules have next to their tensors, of which this rank has the main copy.

    Without Transformer Engine they are all None, but Megatron's loader wants to find them.
    """
    return [
        item.unique_key
        for chunk in engine.chunks
        for item in nested_values(chunk.module.sharded_state_dict())
        if isinstance(item, ShardedObject) and is_main_replica(item.replica_id)
    ]


def inner_optimizers(engine: "Engine") -> list[Any]:
    """Megatron's distributed optimizers that have something to do on this rank."""
    every = getattr(engine.optimizer, "chained_optimizers", [engine.optimizer])
    return [each for each in every if not getattr(each, "is_stub_optimizer", False)]


def _shards(engine: "Engine") -> Iterator[tuple[int, Shard]]:
    for each in inner_optimizers(engine):
        for parameter, (group, order) in each.model_param_group_index_map.items():
            owned = each._get_model_param_range_map(parameter)["param"]
            main = each.optimizer.param_groups[group]["params"][order]
            yield id(parameter), Shard(each.optimizer, group, main, owned.start, owned.end)


def _pieces(item: ShardedTensor | ShardedTensorFactory) -> tuple[Piece, ...]:
    whole = item.data.detach()
    parts: Iterable[Any] = [item]
    if isinstance(item, ShardedTensorFactory):
        parts = nested_values(item.build())
    found, at = [], 0
    for part in parts:
        start = part.data.storage_offset() - whole.storage_offset()
        same = part.data.untyped_storage().data_ptr() == whole.untyped_storage().data_ptr()
        if not (same and start == at and part.data.is_contiguous()):
            raise EngineError(f"{item.key} of the model is not made of contiguous parts: its optimizer has no names")
        at += part.data.numel()
        leading = part.prepend_axis_num
        replica = part.replica_id if isinstance(part.replica_id, tuple) else (part.replica_id,)
        found.append(
            Piece(
                part.key,
                tuple(part.global_shape),
                tuple(part.global_offset[:leading]),
                tuple(part.global_offset[leading:]),
                tuple(part.local_shape),
                start,
                is_main_replica(replica[:-1]),
                is_main_replica(part.replica_id),
            )
        )
    return tuple(found)


def slabs_to_write(
    tensors: Iterable[Tensor], averages: Iterable[Mapping[int, Mapping[str, torch.Tensor]]]
) -> list[Slab]:
    """This rank's share of a checkpoint: together, all ranks cover each global tensor exactly once.

    Args:
        tensors: From `tensors_of`.
        averages: Further float32 ranges of the same extent as the shards': by the parameter's `id`, then by prefix.
    """
    found: list[Slab] = []
    for tensor in tensors:
        if not tensor.trained:
            whole = tensor.value.detach().view(-1)
            if not isinstance(tensor.value, torch.nn.Parameter):
                # A buffer may change before the optimizer's update, which waits for the copy (`staging`).
                whole = whole.clone()
            found += [slab for piece in tensor.pieces if piece.only for slab in piece.slabs(piece.key, whole, 0)]
            continue
        if tensor.shard is None:
            continue
        ranges = {"": tensor.owned()}
        state = tensor.shard.state()
        ranges.update({moment_key(moment, ""): state[moment].view(-1) for moment in MOMENTS})
        if tensor.value.dtype != torch.float32:
            ranges[MASTER] = tensor.shard.main.detach().view(-1)
        for average in averages:
            ranges.update(average.get(id(tensor.value), {}))
        for piece in tensor.pieces:
            if piece.first:
                for prefix, flat in ranges.items():
                    found += piece.slabs(prefix + piece.key, flat, tensor.shard.start)
    return found


def steps_of(tensors: Iterable[Tensor]) -> dict[str, int]:
    """Adam's step count of every parameter that this rank owns a part of, by name and place."""
    return {
        step_name(tensor.pieces[0]): tensor.shard.step for tensor in tensors if tensor.shard and tensor.pieces[0].first
    }


def step_name(piece: Piece) -> str:
    """A name that the shards of one parameter, and no others, have in common."""
    return "@".join([piece.key, *map(str, piece.leading)])
