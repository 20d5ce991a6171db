"""Parameters of a sharded Megatron model: their names in the whole model, and their tensor-parallel shards."""

from collections.abc import Iterator, Sequence

import torch
from megatron.core import parallel_state
from megatron.core.models.gpt.gpt_model import GPTModel

EMBEDDING = "embedding.word_embeddings.weight"
OUTPUT = "output_layer.weight"


def unwrap(module: torch.nn.Module) -> GPTModel:
    """The model inside Megatron's data-parallel and precision wrappers."""
    while not isinstance(module, GPTModel):
        module = module.module
    return module


def global_parameters(chunks: Sequence[torch.nn.Module]) -> Iterator[tuple[str, torch.nn.Parameter]]:
    """This rank's parameters under names that are the same in every layout.

    Args:
        chunks: What `build_model` returned, or the same wrapped for training.

    Yields:
        Name with the layer's number in the whole model (`decoder.layers.<n>.`) and the expert's number in its layer
        (`mlp.experts.local_experts.<n>.`), and the local shard. A tied output projection is not listed: it is the
        embedding, even where pipeline parallelism keeps a second copy.
    """
    for chunk in chunks:
        model = unwrap(chunk)
        for name, parameter in model.named_parameters():
            name = global_name(model, name)
            if name != OUTPUT or not model.share_embeddings_and_output_weights:
                yield name, parameter


def global_buffers(chunks: Sequence[torch.nn.Module]) -> Iterator[tuple[str, torch.Tensor]]:
    """What belongs to the weights of this rank but is not trained by gradients: `...mlp.router.expert_bias`, float32.

    Args:
        chunks: What `build_model` returned, or the same wrapped for training.

    Yields:
        Name as in `global_parameters`, and the tensor, which no layout splits.
    """
    for chunk in chunks:
        model = unwrap(chunk)
        for name, buffer in model.named_buffers():
            if name.endswith(".router.expert_bias"):
                yield global_name(model, name), buffer


def global_name(model: GPTModel, name: str) -> str:
    """The name in the whole model of what a model chunk calls `name`."""
    parts = name.split(".")
    if parts[:2] == ["decoder", "layers"]:
        parts[2] = str(model.decoder.layers[int(parts[2])].layer_number - 1)
    if "local_experts" in parts:
        place = parts.index("local_experts") + 1
        local = model.config.num_moe_experts // parallel_state.get_expert_model_parallel_world_size()
        parts[place] = str(parallel_state.get_expert_model_parallel_rank() * local + int(parts[place]))
    return ".".join(parts)


def mark_experts(model: GPTModel) -> None:
    """Mark the experts' parameters, in every layout, as those whose replicas are in the expert-data-parallel group.

    Megatron only does so with expert parallelism. Without it, tensor parallelism would leave the ranks' copies of an
    expert with different gradients, since each rank sends other tokens. And the optimizer would have one part less
    than with it, so that a checkpoint could not be loaded in the other layout.
    """
    for name, parameter in model.named_parameters():
        if ".local_experts." in name:
            parameter.allreduce = False


def is_expert(parameter: torch.nn.Parameter) -> bool:
    """Whether a parameter belongs to an expert, of which each expert-parallel rank holds some and all of each."""
    return not getattr(parameter, "allreduce", True)


def is_sharded(parameter: torch.nn.Parameter) -> bool:
    """Whether tensor parallelism splits a parameter; otherwise every rank that has it holds all of it."""
    # Experts carry Megatron's mark too, but their own tensor-parallel size is always one.
    return bool(getattr(parameter, "tensor_model_parallel", False)) and not is_expert(parameter)


def full_shape(parameter: torch.nn.Parameter) -> list[int]:
    """Shape of a parameter over all tensor-parallel ranks."""
    shape = list(parameter.shape)
    if is_sharded(parameter):
        shape[parameter.partition_dim] *= parallel_state.get_tensor_model_parallel_world_size()
    return shape


def shard(full: torch.Tensor, parameter: torch.nn.Parameter) -> torch.Tensor:
    """This tensor-parallel rank's part of a full tensor.

    A gated fc1 is two matrices under each other (`partition_stride` 2): a rank gets a part of each.
    """
    world = parallel_state.get_tensor_model_parallel_world_size()
    if world == 1 or not is_sharded(parameter):
        return full
    dim, stride = parameter.partition_dim, parameter.partition_stride
    pieces = full.split(full.shape[dim] // (world * stride), dim)
    return torch.cat(pieces[parallel_state.get_tensor_model_parallel_rank() :: world], dim)


def unshard(parts: Sequence[torch.Tensor], parameter: torch.nn.Parameter) -> torch.Tensor:
    """The full tensor from the parts of all tensor-parallel ranks; the inverse of `shard`."""
    if len(parts) == 1 or not is_sharded(parameter):
        return parts[0]
    dim, stride = parameter.partition_dim, parameter.partition_stride
    pieces = [part.chunk(stride, dim) for part in parts]
    return torch.cat([piece[index] for index in range(stride) for piece in pieces], dim)
