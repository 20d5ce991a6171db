"""Upcycling: the tensors of a dense model become those of a mixture of experts, one layer at a time.

Arithmetic on a stream of Hugging Face tensors; nothing is loaded, built or communicated. What is random is drawn from
generators seeded by the name of the tensor, so that it depends neither on the order of the stream nor on any layout.
"""

import hashlib
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator

import torch

from tatara.errors import ArtifactError
from tatara.model.hf_names import Entry, entries
from tatara.model.spec import ModelSpec
from tatara.model.upcycle_settings import UpcycleSettings, check, gain

_MATRICES = ("gate", "up", "down")


def upcycle_stream(
    tensors: Iterable[tuple[str, torch.Tensor]],
    dense: ModelSpec,
    sparse: ModelSpec,
    settings: UpcycleSettings,
    seed: int = 0,
) -> Iterator[tuple[str, torch.Tensor]]:
    """Turn the tensors of a dense model into those of a mixture of experts.

    Only the feed-forward changes; everything else is passed on as it came. With normalised router weights, ``copy`` and
    ``granular`` give a model that computes what the dense one does, whatever the router.

    Args:
        tensors: (Hugging Face name, full tensor) of the dense model, in any order. A feed-forward's three matrices are
            held until the last of them comes, so an order by layer keeps one layer's in memory.
        dense: Its architecture.
        sparse: The architecture to make: the same with ``moe``.
        settings: Method and router.
        seed: Of the router and of what is drawn anew.

    Yields:
        (Hugging Face name, tensor) of every tensor of the sparse model. Tensors may share memory with those that were
        given: copy what is to be kept.

    Raises:
        ConfigError: The architectures do not fit each other or the settings.
        ArtifactError: A tensor is missing, unknown, given twice, or of another shape than the architecture says.
    """
    check(dense, sparse, settings)
    sources = {name: (entry, index) for entry in entries(dense) for index, name in enumerate(entry.huggingface)}
    targets = {entry.megatron: entry for entry in entries(sparse) if entry.megatron}
    experts = _Experts(dense, sparse, settings, seed)
    waiting: dict[int, dict[str, torch.Tensor]] = defaultdict(dict)
    seen: set[str] = set()
    for name, tensor in tensors:
        if name not in sources or name in seen:
            raise ArtifactError(f"tensor {name} was given twice" if name in seen else f"unexpected tensor {name}")
        seen.add(name)
        entry, index = sources[name]
        if tuple(tensor.shape) != entry.parts[index][1]:
            raise ArtifactError(f"tensor {name} has shape {list(tensor.shape)}, expected {list(entry.parts[index][1])}")
        if ".mlp." in entry.megatron:
            layer = _layer(name)
            waiting[layer][_MATRICES[2 if "linear_fc2" in entry.megatron else index]] = tensor
            if len(waiting[layer]) == len(_MATRICES):
                yield from experts.layer(layer, waiting.pop(layer))
        elif entry.megatron:
            yield targets[entry.megatron].huggingface[index], tensor
    missing = [name for name in sources if name not in seen]
    if missing:
        raise ArtifactError(f"{len(missing)} tensors are missing, the first is {missing[0]}")


class _Experts:
    """Makes the tensors of a layer's mixture of experts from those of its feed-forward."""

    def __init__(self, dense: ModelSpec, sparse: ModelSpec, settings: UpcycleSettings, seed: int) -> None:
        assert sparse.moe is not None
        self.moe, self.settings, self.seed = sparse.moe, settings, seed
        self.width = dense.hidden_size
        total = gain(sparse, settings)
        # On the two matrices that the output is linear in, unlike the gate's; by a power of two, which costs no
        # precision, on the one, and by what is left, often a power of two as well, on the other.
        up = 2.0 ** round(math.log2(total) / 2)
        self.scale = {"gate": 1.0, "up": up, "down": total / up}
        self.entries: dict[int, list[Entry]] = defaultdict(list)
        for entry in entries(sparse):
            if ".mlp." in entry.megatron or not entry.megatron:
                self.entries[_layer(entry.huggingface[0])].append(entry)

    def layer(self, layer: int, matrices: dict[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
        for entry in self.entries[layer]:
            for index, (name, shape) in enumerate(entry.parts):
                yield name, self._tensor(entry, index, shape, matrices)

    def _tensor(
        self, entry: Entry, index: int, shape: tuple[int, ...], matrices: dict[str, torch.Tensor]
    ) -> torch.Tensor:
        place = entry.megatron
        like = matrices["gate"]
        if place.endswith("router.weight"):
            return self._router(place).to(like)
        if not place or place.endswith("router.expert_bias"):
            # A bias decides which experts are chosen, too finely for less than float32.
            dtype = torch.float32 if len(shape) == 1 else like.dtype
            return torch.zeros(shape, dtype=dtype, device=like.device)
        which = _MATRICES[2 if "linear_fc2" in place else index]
        dim = 1 if which == "down" else 0
        shared = self.moe.shared_expert_ffn_hidden_size
        if ".shared_experts." in place:
            return matrices[which].narrow(dim, 0, shared)
        prefix, _, rest = place.partition(".local_experts.")
        expert = int(rest.split(".")[0])
        width = self.moe.expert_ffn_hidden_size
        part = matrices[which].narrow(dim, shared + expert % self.settings.shards * width, width)
        if self.scale[which] != 1.0:
            part = (part.float() * self.scale[which]).to(part.dtype)
        return self._altered(part, dim, f"{prefix}.local_experts.{expert}", which)

    def _router(self, place: str) -> torch.Tensor:
        """`[experts, hidden]`; the experts of a group, which are neighbours, have the same weights."""
        groups = self.moe.num_experts // self.settings.shards
        rows = torch.randn(groups, self.width, generator=self._generator(place)) * self.settings.router_std
        return rows.repeat_interleave(self.settings.shards, 0)

    def _altered(self, matrix: torch.Tensor, dim: int, expert: str, which: str) -> torch.Tensor:
        if self.settings.method not in ("noise", "drop"):
            return matrix
        neurons = self._neurons(expert).to(matrix.device)
        old = matrix.index_select(dim, neurons).float()
        fresh = torch.randn(old.shape, generator=self._generator(f"{expert}.{which}")).to(matrix.device)
        if self.settings.method == "drop":
            new = fresh * old.std() + old.mean()
        else:
            new = old + fresh * (self.settings.noise or 1.0) * matrix.float().std()
        return matrix.clone().index_copy_(dim, neurons, new.to(matrix.dtype))

    def _neurons(self, expert: str) -> torch.Tensor:
        """Which neurons of an expert change: the same in its three matrices."""
        ratio = 0.5 if self.settings.ratio is None else self.settings.ratio
        width = self.moe.expert_ffn_hidden_size
        return torch.randperm(width, generator=self._generator(f"{expert}.neurons"))[: int(width * ratio)].sort().values

    def _generator(self, name: str) -> torch.Generator:
        digest = hashlib.sha256(f"{self.seed}:upcycle:{name}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def _layer(name: str) -> int:
    """The number of the layer in a Hugging Face name, `model.layers.<n>.`."""
    return int(name.split(".")[2])
