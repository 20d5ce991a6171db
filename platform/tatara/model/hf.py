"""The weight stream: a sharded Megatron model as Hugging Face tensors, one at a time, and back.

Export, weight synchronisation to the inference engine and merging consume it. Both directions are collective: every
rank of the model iterates, and both account for every tensor or fail.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from megatron.core import parallel_state

from tatara.errors import ArtifactError
from tatara.model.hf_families import hf_config
from tatara.model.hf_names import Entry, converted, entries, hf_names, hf_shapes
from tatara.model.parameters import (
    full_shape,
    global_buffers,
    global_parameters,
    is_expert,
    is_sharded,
)
from tatara.model.spec import ModelSpec

__all__ = [
    "ShardedWeights",
    "hf_config",
    "hf_names",
    "hf_shapes",
    "stream_to_hf",
]

Named = tuple[str, torch.Tensor]


@dataclass(frozen=True)
class _Place:
    """Where a Megatron tensor is, and what it is like over all tensor-parallel ranks."""

    stage: int
    """Pipeline rank."""
    expert_rank: int | None
    """Expert-parallel rank; None where every rank of the stage has the tensor, or a part of it."""
    split: tuple[int, int] | None
    """Dimension and stride that tensor parallelism splits it by; None where it does not."""
    shape: tuple[int, ...]
    dtype: torch.dtype


class ShardedWeights:
    """The weights of a model that is spread over ranks, ready to be streamed; making one is collective.

    Attributes:
        spec: The architecture.
    """

    def __init__(self, chunks: Sequence[torch.nn.Module], spec: ModelSpec) -> None:
        """Find out which rank holds which tensor.

        Args:
            chunks: What `build_model` returned, or the same wrapped for training.
            spec: The architecture.

        Raises:
            ArtifactError: The model lacks a tensor of the architecture, or has one that it does not know.
            ConfigError: No Hugging Face architecture holds the model.
        """
        self.spec = spec
        self._entries = entries(spec)
        self._local = local_tensors(chunks)
        self._places = places_of(self._local, self._entries)
        self._device = next(iter(self._local.values())).device

    def entries(self) -> list[Entry]:
        """All tensors, in the order of the stream."""
        return list(self._entries)

    def dtype(self, entry: Entry) -> torch.dtype:
        """Type of the numbers of a tensor."""
        if entry.megatron:
            return self._places[entry.megatron].dtype
        return entry.usual_dtype(self.spec)

    @torch.no_grad()
    def everywhere(self) -> Iterator[Named]:
        """Every tensor, on every rank; collective over each replica of the model.

        One layer's matrix is in memory at a time. Tensors may share memory with the model: copy what is to be kept.
        """
        for entry in self._entries:
            yield from self._converted(entry, self._shared(entry) if entry.megatron else None)

    @torch.no_grad()
    def to_owners(self, plan: Iterable[tuple[Entry, int]]) -> Iterator[tuple[Entry, str, torch.Tensor]]:
        """Each tensor on one rank only; collective over all ranks, which must give the same plan.

        The ranks of one replica that hold parts of a tensor send them to its owner; no other rank takes part.

        Args:
            plan: Tensors and the global rank that gets each, in the order they are sent.

        Yields:
            Entry, Hugging Face name and tensor of what this rank owns. Tensors may share memory with the model.
        """
        holders = _Holders.of_all_ranks()
        me = dist.get_rank()
        for entry, owner in plan:
            full = self._sent(entry, owner, holders) if entry.megatron else None
            if me == owner:
                for name, tensor in self._converted(entry, full):
                    yield entry, name, tensor

    def _converted(self, entry: Entry, full: torch.Tensor | None) -> Iterator[Named]:
        return converted(entry, full, self.spec, self.dtype(entry), self._device)

    def _shared(self, entry: Entry) -> torch.Tensor:
        """The full tensor, gathered over tensor parallelism and broadcast to all others of the replica."""
        place = self._places[entry.megatron]
        local = self._local.get(entry.megatron)
        full = None if local is None else local.detach()
        tensor_group = parallel_state.get_tensor_model_parallel_group()
        if full is not None and place.split and tensor_group.size() > 1:
            parts = [torch.empty_like(full) for _ in range(tensor_group.size())]
            dist.all_gather(parts, full.contiguous(), group=tensor_group)
            full = _joined(parts, place.split)
        pipeline = parallel_state.get_pipeline_model_parallel_group()
        if place.expert_rank is not None and place.stage == pipeline.rank():
            full = self._broadcast(full, place, place.expert_rank, parallel_state.get_expert_model_parallel_group())
        return self._broadcast(full, place, place.stage, pipeline)

    def _broadcast(
        self, full: torch.Tensor | None, place: _Place, source: int, group: dist.ProcessGroup
    ) -> torch.Tensor:
        """A tensor that the rank `source` of a group has, on all of them."""
        if full is None:
            full = torch.empty(place.shape, dtype=place.dtype, device=self._device)
        if group.size() > 1:
            full = full.contiguous()
            dist.broadcast(full, src=dist.get_global_rank(group, source), group=group)
        return full

    def _sent(self, entry: Entry, owner: int, holders: "_Holders") -> torch.Tensor | None:
        """The full tensor on the rank that owns it; None on the others."""
        place, me = self._places[entry.megatron], dist.get_rank()
        ranks = holders.of(place)
        if me != owner:
            if me in ranks:
                dist.send(self._local[entry.megatron].detach().contiguous(), dst=owner)
            return None
        shape = list(place.shape)
        if place.split:
            shape[place.split[0]] //= len(ranks)
        parts = []
        for rank in ranks:
            if rank == me:
                parts.append(self._local[entry.megatron].detach())
            else:
                parts.append(torch.empty(shape, dtype=place.dtype, device=self._device))
                dist.recv(parts[-1], src=rank)
        return _joined(parts, place.split) if place.split else parts[0]


@dataclass(frozen=True)
class _Holders:
    """Global ranks of the first replica by their place in it."""

    by_tensor_rank: dict[tuple[int, int], int]
    """(pipeline rank, tensor-parallel rank) to global rank."""
    by_expert_rank: dict[tuple[int, int], int]
    """(pipeline rank, expert-parallel rank) to global rank."""

    @classmethod
    def of_all_ranks(cls) -> "_Holders":
        """Ask every rank where it is; collective over all of them."""
        device = "cuda" if torch.cuda.is_available() else "cpu"
        mine = torch.tensor(
            [
                parallel_state.get_pipeline_model_parallel_rank(),
                parallel_state.get_tensor_model_parallel_rank(),
                parallel_state.get_data_parallel_rank(with_context_parallel=True),
                parallel_state.get_expert_model_parallel_rank(),
                parallel_state.get_expert_data_parallel_rank(),
            ],
            device=device,
        )
        found = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
        dist.all_gather(found, mine)
        tensor, expert = {}, {}
        for rank, (stage, tensor_rank, replica, expert_rank, expert_replica) in enumerate(map(_integers, found)):
            if replica == 0:
                tensor[stage, tensor_rank] = rank
            if expert_replica == 0:
                expert[stage, expert_rank] = rank
        return cls(tensor, expert)

    def of(self, place: _Place) -> list[int]:
        """The ranks that hold a tensor: all its parts in order, or the one that holds all of it."""
        if place.expert_rank is not None:
            return [self.by_expert_rank[place.stage, place.expert_rank]]
        size = parallel_state.get_tensor_model_parallel_world_size() if place.split else 1
        return [self.by_tensor_rank[place.stage, rank] for rank in range(size)]


def stream_to_hf(chunks: Sequence[torch.nn.Module], spec: ModelSpec) -> Iterator[Named]:
    """Yield every tensor of the model under its Hugging Face name, on every rank; see `ShardedWeights.everywhere`.

    Raises:
        ArtifactError: The model lacks a tensor of the architecture, or has one that it does not know.
        ConfigError: No Hugging Face architecture holds the model.
    """
    yield from ShardedWeights(chunks, spec).everywhere()


def local_tensors(chunks: Sequence[torch.nn.Module]) -> dict[str, torch.Tensor]:
    return {**dict(global_parameters(chunks)), **dict(global_buffers(chunks))}


def places_of(local: dict[str, torch.Tensor], known: Sequence[Entry]) -> dict[str, _Place]:
    """Where each tensor is; collective over the pipeline and over expert parallelism."""
    expert_group = parallel_state.get_expert_model_parallel_group()
    pipeline = parallel_state.get_pipeline_model_parallel_group()
    places = {
        name: _Place(
            stage=pipeline.rank(),
            expert_rank=expert_group.rank() if is_expert(tensor) else None,
            split=(tensor.partition_dim, tensor.partition_stride) if is_sharded(tensor) else None,
            shape=tuple(full_shape(tensor)),
            dtype=tensor.dtype,
        )
        for name, tensor in local.items()
    }
    for group in (expert_group, pipeline):
        if group.size() > 1:
            held: list[dict[str, _Place]] = [{} for _ in range(group.size())]
            dist.all_gather_object(held, places, group=group)
            places = {name: place for part in held for name, place in part.items()}
    expected = {entry.megatron for entry in known if entry.megatron}
    if places.keys() != expected:
        missing, unknown = sorted(expected - places.keys()), sorted(places.keys() - expected)
        problem = f"lacks {missing[0]}" if missing else f"has {unknown[0]}, which the architecture does not"
        raise ArtifactError(f"the Megatron model does not fit its specification: it {problem}")
    return places


def _joined(parts: Sequence[torch.Tensor], split: tuple[int, int]) -> torch.Tensor:
    """The full tensor of its tensor-parallel parts; the inverse of `parameters.shard`."""
    if len(parts) == 1:
        return parts[0]
    dim, stride = split
    pieces = [part.chunk(stride, dim) for part in parts]
    return torch.cat([piece[index] for index in range(stride) for piece in pieces], dim)


def _integers(tensor: torch.Tensor) -> list[int]:
    return [int(value) for value in tensor.tolist()]
