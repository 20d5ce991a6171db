"""How alike the experts of a mixture are: 1 right after they were copied, less the more they specialise.

The similarity of a layer is the cosine between the weights of two experts, averaged over all pairs and over the three
matrices (gate, up, down). With u the weights of an expert divided by their norm, the sum over all ordered pairs is
`|sum u|^2 - experts`, so that the experts are read once and none is compared with another: what is added up, and sent
between ranks, has the size of one expert.

Experts that agree in a share s of their neurons, and are independent elsewhere, have a similarity of about s: after
Drop-Upcycling with ratio r it starts at (1 - r)^2. Shards of one feed-forward are nearly orthogonal, so that granular
upcycling into E experts of G shards starts at about (E/G - 1) / (E - 1). The makers of Tanuki-8x8B report that theirs
were less than 50 % alike in the end; the model card does not say how that was measured.

What was copied parts as soon as experts see different tokens, or the same with different weights. It never does behind
a zero router that sends each token to all experts.
"""

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
import torch.distributed as dist
from megatron.core import parallel_state

from tatara.errors import ArtifactError
from tatara.model.hf_names import entries
from tatara.model.hf_spec import spec_from_hf
from tatara.model.parameters import global_parameters
from tatara.model.safetensors_files import TensorDirectory
from tatara.model.spec import ModelSpec

_EXPERT = re.compile(r"decoder\.layers\.(\d+)\.mlp\.experts\.local_experts\.\d+\.linear_fc([12])\.weight")


class _Sum:
    """Adds up the directions of matrices of one kind."""

    def __init__(self) -> None:
        self.total: torch.Tensor | None = None
        self.count = 0

    def add(self, matrix: torch.Tensor) -> None:
        direction = matrix.float()
        direction = direction / torch.linalg.vector_norm(direction, dtype=torch.float64).float()
        self.total = direction if self.total is None else self.total.add_(direction)
        self.count += 1

    def similarity(self, experts: int) -> float:
        assert self.total is not None
        length = float(torch.linalg.vector_norm(self.total, dtype=torch.float64))
        return (length**2 - experts) / (experts * (experts - 1))


@torch.no_grad()
def expert_similarity(chunks: Sequence[torch.nn.Module]) -> dict[int, float]:
    """The similarity of the experts of each layer of a live model.

    Collective over the expert- and pipeline-parallel ranks, each of which gets all layers. Costs one pass over the
    experts' weights, and per layer the exchange of one expert's size. Experts are whole on a tensor-parallel rank.

    Args:
        chunks: What `build_model` returned, or the same wrapped for training.

    Returns:
        Layer, numbered from 0 in the whole model, to its mean similarity; empty for a dense model.
    """
    layers: dict[int, list[tuple[str, torch.Tensor]]] = defaultdict(list)
    for name, parameter in global_parameters(chunks):
        match = _EXPERT.fullmatch(name)
        if match:
            layers[int(match[1])].append((match[2], parameter))
    group = parallel_state.get_expert_model_parallel_group()
    mine = {}
    for layer, parameters in sorted(layers.items()):
        sums: dict[str, _Sum] = defaultdict(_Sum)
        for which, parameter in parameters:
            parts = dict(zip(("gate", "up"), parameter.chunk(2), strict=True)) if which == "1" else {"down": parameter}
            for part, matrix in parts.items():
                sums[part].add(matrix)
        for each in sums.values():
            dist.all_reduce(each.total, group=group)
        mine[layer] = _mean([each.similarity(each.count * group.size()) for each in sums.values()])
    pipeline = parallel_state.get_pipeline_model_parallel_group()
    held: list[dict[int, float]] = [{} for _ in range(pipeline.size())]
    dist.all_gather_object(held, mine, group=pipeline)
    return dict(sorted((layer, value) for part in held for layer, value in part.items()))


@torch.no_grad()
def stream_similarity(tensors: Iterable[tuple[str, torch.Tensor]], spec: ModelSpec) -> dict[int, float]:
    """The same of Hugging Face tensors, such as those of an exported directory.

    Args:
        tensors: (name, tensor) pairs. A layer's sums are held until all of its experts were seen.
        spec: The architecture.
    """
    moe = spec.moe
    if moe is None:
        return {}
    places = {}
    for entry in entries(spec):
        match = _EXPERT.fullmatch(entry.megatron)
        for index, name in enumerate(entry.huggingface if match else ()):
            places[name] = (int(match[1]), "down" if match[2] == "2" else ("gate", "up")[index])  # type: ignore[index]
    sums: dict[tuple[int, str], _Sum] = defaultdict(_Sum)
    found: dict[int, list[float]] = defaultdict(list)
    for name, tensor in tensors:
        if name in places:
            place = places[name]
            sums[place].add(tensor)
            if sums[place].count == moe.num_experts:
                found[place[0]].append(sums.pop(place).similarity(moe.num_experts))
    return {layer: _mean(values) for layer, values in sorted(found.items())}


def directory_similarity(directory: Path) -> dict[int, float]:
    """The same of a Hugging Face directory: ``config.json`` and safetensors files, read one tensor at a time.

    Raises:
        ArtifactError: The files are missing or damaged.
        ConfigError: The configuration describes a model that is not one of ours.
    """
    path = directory / "config.json"
    if not path.is_file():
        raise ArtifactError(f"{path} is missing: this is not a Hugging Face model")
    spec = spec_from_hf(json.loads(path.read_text(encoding="utf-8")))
    return stream_similarity(TensorDirectory(directory), spec)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
