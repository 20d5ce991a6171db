"""The weight stream: a sharded Megatron model as Hugging Face tensors, one at a time, and back.

Export, weight synchronisation to the inference engine and merging consume it. Both directions are collective: every
rank of the model iterates, and both account for every tensor or fail.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from megatron.core import parallel_state

from tatara.errors import ArtifactError
from tatara.model.megatron import EMBEDDING, OUTPUT, full_shape, global_parameters, is_sharded, shard, unshard, unwrap
from tatara.model.spec import ModelSpec

_PLAIN = {
    "input_layernorm.weight": "input_layernorm.weight",
    "pre_mlp_layernorm.weight": "post_attention_layernorm.weight",
    "self_attention.linear_proj.weight": "self_attn.o_proj.weight",
    "mlp.linear_fc2.weight": "mlp.down_proj.weight",
}


@dataclass(frozen=True)
class _Entry:
    """One Megatron tensor and the Hugging Face tensors it is made of."""

    megatron: str
    huggingface: tuple[str, ...]


@dataclass(frozen=True)
class _Whereabouts:
    """Where a Megatron tensor is, and what it is like over all tensor-parallel ranks."""

    rank: int
    shape: tuple[int, ...]
    dtype: torch.dtype


def hf_config(spec: ModelSpec, eos_token_id: int | None = None) -> dict[str, Any]:
    """The `config.json` of a model, as transformers' `LlamaConfig` reads it."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": spec.vocab_size,
        "hidden_size": spec.hidden_size,
        "intermediate_size": spec.ffn_hidden_size,
        "num_hidden_layers": spec.num_layers,
        "num_attention_heads": spec.num_attention_heads,
        "num_key_value_heads": spec.num_query_groups,
        "head_dim": spec.head_size,
        "hidden_act": "silu",
        "max_position_embeddings": spec.max_position_embeddings,
        "initializer_range": spec.init_std,
        "rms_norm_eps": spec.rms_norm_eps,
        "rope_theta": spec.rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": spec.rope_theta},
        "tie_word_embeddings": spec.tie_word_embeddings,
        "attention_bias": False,
        "mlp_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": eos_token_id,
        "eos_token_id": eos_token_id,
        "pad_token_id": eos_token_id,
        "dtype": spec.dtype,
        "use_cache": True,
    }


def hf_names(spec: ModelSpec) -> list[str]:
    """Names of all tensors of the Hugging Face model, in the order of the stream."""
    return [name for entry in _entries(spec) for name in entry.huggingface]


@torch.no_grad()
def stream_to_hf(chunks: Sequence[torch.nn.Module], spec: ModelSpec) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield every tensor of the model under its Hugging Face name.

    Collective over the tensor- and pipeline-parallel ranks, each of which gets every tensor, one layer's matrix in
    memory at a time. Tensors may share memory with the model: copy what is to be kept.

    Args:
        chunks: What `build_model` returned, or the same wrapped for training.
        spec: The architecture.

    Raises:
        ArtifactError: The model lacks a tensor of the architecture, or has one that it does not know.
    """
    local = dict(global_parameters(chunks))
    entries = _entries(spec)
    places = _whereabouts(local, {entry.megatron for entry in entries})
    device = next(iter(local.values())).device
    for entry in entries:
        parameter = local.get(entry.megatron)
        full = None if parameter is None else _gather(parameter)
        full = _broadcast(full, places[entry.megatron], device)
        yield from zip(entry.huggingface, _to_hf(entry, full, spec), strict=True)


@torch.no_grad()
def load_from_hf(
    chunks: Sequence[torch.nn.Module], spec: ModelSpec, tensors: Iterable[tuple[str, torch.Tensor]]
) -> None:
    """Copy Hugging Face tensors into the model; the inverse of `stream_to_hf`.

    Every rank must be given all tensors, in any order; each keeps its shard. Nothing is communicated but the names.

    Args:
        chunks: What `build_model` returned, or the same wrapped for training.
        spec: The architecture.
        tensors: (name, full tensor) pairs.

    Raises:
        ArtifactError: A tensor is missing, unknown, given twice, or of another shape than the architecture says.
    """
    local = dict(global_parameters(chunks))
    entries = {name: entry for entry in _entries(spec) for name in entry.huggingface}
    _whereabouts(local, {entry.megatron for entry in entries.values()})
    shapes = hf_shapes(spec)
    waiting: dict[str, dict[str, torch.Tensor]] = {}
    seen: set[str] = set()
    for name, tensor in tensors:
        if name not in entries:
            raise ArtifactError(f"unexpected tensor {name}: the architecture has none of that name")
        if name in seen:
            raise ArtifactError(f"tensor {name} was given twice")
        if tuple(tensor.shape) != shapes[name]:
            raise ArtifactError(f"tensor {name} has shape {list(tensor.shape)}, expected {list(shapes[name])}")
        seen.add(name)
        entry = entries[name]
        parts = waiting.setdefault(entry.megatron, {})
        parts[name] = tensor
        if len(parts) == len(entry.huggingface):
            _assign(entry, local.get(entry.megatron), waiting.pop(entry.megatron), spec)
    missing = [name for name in entries if name not in seen]
    if missing:
        raise ArtifactError(f"{len(missing)} tensors are missing, the first is {missing[0]}")
    _copy_tied_output(chunks)


def hf_shapes(spec: ModelSpec) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor of the Hugging Face model."""
    width, queries = spec.hidden_size, spec.head_size * spec.num_attention_heads
    keys = spec.head_size * spec.num_query_groups
    by_suffix = {
        "embed_tokens": (spec.vocab_size, width),
        "lm_head": (spec.vocab_size, width),
        "q_proj": (queries, width),
        "k_proj": (keys, width),
        "v_proj": (keys, width),
        "o_proj": (width, queries),
        "gate_proj": (spec.ffn_hidden_size, width),
        "up_proj": (spec.ffn_hidden_size, width),
        "down_proj": (width, spec.ffn_hidden_size),
    }
    return {name: by_suffix.get(name.split(".")[-2], (width,)) for name in hf_names(spec)}


def _entries(spec: ModelSpec) -> list[_Entry]:
    entries = [_Entry(EMBEDDING, ("model.embed_tokens.weight",))]
    for layer in range(spec.num_layers):
        here, there = f"decoder.layers.{layer}.", f"model.layers.{layer}."
        qkv = tuple(f"{there}self_attn.{part}_proj.weight" for part in "qkv")
        gated = (f"{there}mlp.gate_proj.weight", f"{there}mlp.up_proj.weight")
        entries += [_Entry(here + name, (there + other,)) for name, other in _PLAIN.items()]
        entries += [
            _Entry(f"{here}self_attention.linear_qkv.weight", qkv),
            _Entry(f"{here}mlp.linear_fc1.weight", gated),
        ]
    entries.append(_Entry("decoder.final_layernorm.weight", ("model.norm.weight",)))
    if not spec.tie_word_embeddings:
        entries.append(_Entry(OUTPUT, ("lm_head.weight",)))
    return entries


def _whereabouts(local: dict[str, torch.nn.Parameter], expected: set[str]) -> dict[str, _Whereabouts]:
    """The pipeline rank that holds each tensor, and what it is like; collective over the pipeline."""
    group = parallel_state.get_pipeline_model_parallel_group()
    mine = {
        name: _Whereabouts(group.rank(), tuple(full_shape(parameter)), parameter.dtype)
        for name, parameter in local.items()
    }
    held: list[dict[str, _Whereabouts]] = [{} for _ in range(group.size())]
    dist.all_gather_object(held, mine, group=group)
    known = {name: place for part in held for name, place in part.items()}
    if known.keys() != expected:
        missing, unknown = sorted(expected - known.keys()), sorted(known.keys() - expected)
        problem = f"lacks {missing[0]}" if missing else f"has {unknown[0]}, which the architecture does not"
        raise ArtifactError(f"the Megatron model does not fit its specification: it {problem}")
    return known


def _gather(parameter: torch.nn.Parameter) -> torch.Tensor:
    """The full tensor, on every tensor-parallel rank."""
    group = parallel_state.get_tensor_model_parallel_group()
    if group.size() == 1 or not is_sharded(parameter):
        return parameter.detach()
    parts = [torch.empty_like(parameter) for _ in range(group.size())]
    dist.all_gather(parts, parameter.detach().contiguous(), group=group)
    return unshard(parts, parameter)


def _broadcast(full: torch.Tensor | None, place: _Whereabouts, device: torch.device) -> torch.Tensor:
    """The tensor of one pipeline rank, on all of them."""
    group = parallel_state.get_pipeline_model_parallel_group()
    if full is None:
        full = torch.empty(place.shape, dtype=place.dtype, device=device)
    if group.size() > 1:
        full = full.contiguous()
        dist.broadcast(full, src=dist.get_global_rank(group, place.rank), group=group)
    return full


def _to_hf(entry: _Entry, full: torch.Tensor, spec: ModelSpec) -> Sequence[torch.Tensor]:
    if entry.megatron in (EMBEDDING, OUTPUT):
        return [full[: spec.vocab_size]]
    if entry.megatron.endswith("linear_fc1.weight"):
        return full.chunk(2)
    if entry.megatron.endswith("linear_qkv.weight"):
        # Each group holds its query heads, then one key head and one value head.
        heads = spec.num_attention_heads // spec.num_query_groups
        grouped = full.view(spec.num_query_groups, heads + 2, spec.head_size, -1)
        return [part.reshape(-1, full.shape[1]) for part in grouped.split([heads, 1, 1], dim=1)]
    return [full]


def _from_hf(entry: _Entry, parts: Sequence[torch.Tensor], spec: ModelSpec) -> torch.Tensor:
    if entry.megatron in (EMBEDDING, OUTPUT):
        return F.pad(parts[0], (0, 0, 0, spec.padded_vocab_size - spec.vocab_size))
    if entry.megatron.endswith("linear_fc1.weight"):
        return torch.cat(list(parts))
    if entry.megatron.endswith("linear_qkv.weight"):
        grouped = [part.reshape(spec.num_query_groups, -1, spec.head_size, part.shape[1]) for part in parts]
        return torch.cat(grouped, dim=1).reshape(-1, parts[0].shape[1])
    return parts[0]


def _assign(
    entry: _Entry, parameter: torch.nn.Parameter | None, parts: dict[str, torch.Tensor], spec: ModelSpec
) -> None:
    if parameter is not None:
        full = _from_hf(entry, [parts[name] for name in entry.huggingface], spec)
        parameter.copy_(shard(full, parameter))


def _copy_tied_output(chunks: Sequence[torch.nn.Module]) -> None:
    """Bring a tied output projection that lives on another pipeline rank up to date."""
    if parallel_state.get_pipeline_model_parallel_world_size() == 1:
        return
    for model in map(unwrap, chunks):
        if model.share_embeddings_and_output_weights and model.pre_process != model.post_process:
            weight = model.shared_embedding_or_output_weight()
            if model.post_process:
                weight.zero_()
            dist.all_reduce(weight.data, group=parallel_state.get_embedding_group())
