"""The weights in a distributed checkpoint, read one tensor at a time: no model is built, nothing is gathered."""

import re
from pathlib import Path

import torch

from tatara.errors import ArtifactError
from tatara.model.hf_names import Entry, entries, from_hf
from tatara.model.spec import ModelSpec
from tatara.train.checkpoint.files import Slab
from tatara.train.checkpoint.index import Index
from tatara.train.checkpoint.names import is_weight

# Megatron stores norms under the names that they have where they are fused with the next matrix.
_STORED_AS = {
    "input_layernorm.weight": "self_attention.linear_qkv.layer_norm_weight",
    "pre_mlp_layernorm.weight": "mlp.linear_fc1.layer_norm_weight",
}


class StoredWeights:
    """The tensors of a checkpoint that any layout wrote.

    Layers are stored as one tensor with the layer's number in front, experts with the expert's number after it.
    """

    def __init__(self, directory: Path, spec: ModelSpec) -> None:
        """Account for every tensor.

        Args:
            directory: ``model/`` of a checkpoint.
            spec: Its architecture.

        Raises:
            ArtifactError: It cannot be read, lacks a tensor, has one of another shape, or one that the model does not.
            ConfigError: No Hugging Face architecture holds the model.
        """
        self._index = Index(directory)
        self._entries = entries(spec)
        self._shapes = {entry.megatron: _shape(entry, spec) for entry in self._entries if entry.megatron}
        self._spec = spec
        known = set()
        for name, shape in self._shapes.items():
            key, leading = _place(name)
            stored = self._index.tensors.get(key)
            if stored is None:
                raise ArtifactError(f"{directory} lacks {key}, which the model of model.json has")
            sizes = {"layers": spec.num_layers, "experts": spec.moe.num_experts if spec.moe else 0}
            wanted = [*list(sizes.values())[: len(leading)], *shape]
            if list(stored.size) != wanted:
                raise ArtifactError(
                    f"{directory} has {key} of shape {list(stored.size)}, but the model of model.json has {wanted}"
                )
            known.add(key)
        extra = {key for key in self._index.tensors if is_weight(key)} - known
        if extra:
            raise ArtifactError(f"{directory} also has {min(extra)}, which the model of model.json does not")

    def entries(self) -> list[Entry]:
        """All tensors, in the order of the stream."""
        return list(self._entries)

    def dtype(self, entry: Entry) -> torch.dtype:
        """Type of the numbers of a tensor."""
        if entry.megatron:
            dtype: torch.dtype = self._index.tensors[_place(entry.megatron)[0]].properties.dtype
            return dtype
        return entry.usual_dtype(self._spec)

    def read(self, entry: Entry) -> torch.Tensor | None:
        """The full Megatron tensor of an entry; None where only Hugging Face has one.

        Raises:
            ArtifactError: Its file cannot be read.
        """
        if not entry.megatron:
            return None
        key, leading = _place(entry.megatron)
        shape = self._shapes[entry.megatron]
        full = torch.empty([*(1 for _ in leading), *shape], dtype=self.dtype(entry))
        offsets = (*leading, *(0 for _ in shape))
        self._index.read([Slab(key, tuple(self._index.tensors[key].size), offsets, tuple(full.shape), full)])
        return full.view(shape)


def _place(name: str) -> tuple[str, tuple[int, ...]]:
    """What a tensor is stored as, and the numbers of its layer and its expert there."""
    found = re.fullmatch(r"decoder\.layers\.(\d+)\.(.+)", name)
    if found is None:
        return name, ()
    layer, rest = int(found[1]), found[2]
    expert = re.fullmatch(r"mlp\.experts\.local_experts\.(\d+)\.(.+)", rest)
    if expert is not None:
        return f"decoder.layers.mlp.experts.experts.{expert[2]}", (layer, int(expert[1]))
    return f"decoder.layers.{_STORED_AS.get(rest, rest)}", (layer,)


def _shape(entry: Entry, spec: ModelSpec) -> tuple[int, ...]:
    parts = [torch.empty(shape, device="meta") for _, shape in entry.parts]
    return tuple(from_hf(entry, parts, spec).shape)
