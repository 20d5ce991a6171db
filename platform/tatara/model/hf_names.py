"""Megatron's tensors and the Hugging Face tensors that they are made of: names, shapes and arithmetic."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F

from tatara.model.hf_families import GLM4_MOE, MIXTRAL, Family, family_of
from tatara.model.parameters import EMBEDDING, OUTPUT
from tatara.model.spec import ModelSpec

Kind = Literal["plain", "table", "qkv", "gated", "zeros", "any"]
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Entry:
    """One Megatron tensor and the Hugging Face tensors that it is made of.

    Attributes:
        megatron: Its name; empty for a tensor that only Hugging Face has: ``zeros`` must be zero, ``any`` has no
            effect and is written as zeros.
        parts: Name and shape of each Hugging Face tensor.
        kind: How one becomes the other: ``table`` pads the vocabulary, ``qkv`` puts heads together by group, ``gated``
            puts two matrices under each other.
    """

    megatron: str
    parts: tuple[tuple[str, Shape], ...]
    kind: Kind = "plain"

    @property
    def huggingface(self) -> tuple[str, ...]:
        """Names of the Hugging Face tensors."""
        return tuple(name for name, _ in self.parts)

    def usual_dtype(self, spec: ModelSpec) -> torch.dtype:
        """Type that a tensor is written in where Megatron has none."""
        # Only the biases of routers keep float32 in models of another type.
        dtype: torch.dtype = getattr(torch, spec.dtype)
        return torch.float32 if self.huggingface[0].endswith("_bias") else dtype


def entries(spec: ModelSpec, family: Family | None = None) -> list[Entry]:
    """Every tensor of a model, in the order of the stream: a layer at a time.

    Args:
        spec: The architecture.
        family: How the Hugging Face tensors are called; None means as the model is written.

    Raises:
        ConfigError: No Hugging Face architecture holds the model.
    """
    family = family or family_of(spec)
    width = spec.hidden_size
    table = (spec.vocab_size, width)
    found = [Entry(EMBEDDING, (("model.embed_tokens.weight", table),), "table")]
    for layer in range(spec.num_layers):
        here, there = f"decoder.layers.{layer}.", f"model.layers.{layer}."
        found += _attention(spec, here, there)
        found += [
            Entry(f"{here}pre_mlp_layernorm.weight", ((f"{there}post_attention_layernorm.weight", (width,)),)),
            *_feed_forward(spec, family, here, there),
        ]
    found.append(Entry("decoder.final_layernorm.weight", (("model.norm.weight", (width,)),)))
    if not spec.tie_word_embeddings:
        found.append(Entry(OUTPUT, (("lm_head.weight", table),), "table"))
    return found


def hf_names(spec: ModelSpec) -> list[str]:
    """Names of all tensors of the Hugging Face model, in the order of the stream."""
    return list(hf_shapes(spec))


def hf_shapes(spec: ModelSpec, family: Family | None = None) -> dict[str, Shape]:
    """Shape of every tensor of the Hugging Face model, in the order of the stream."""
    return {name: shape for entry in entries(spec, family) for name, shape in entry.parts}


def _attention(spec: ModelSpec, here: str, there: str) -> Iterator[Entry]:
    width, size = spec.hidden_size, spec.head_size
    heads = {"q": spec.num_attention_heads, "k": spec.num_query_groups, "v": spec.num_query_groups}
    yield Entry(f"{here}input_layernorm.weight", ((f"{there}input_layernorm.weight", (width,)),))
    parts = tuple((f"{there}self_attn.{part}_proj.weight", (count * size, width)) for part, count in heads.items())
    yield Entry(f"{here}self_attention.linear_qkv.weight", parts, "qkv")
    if spec.qk_norm != "none":
        for part in "qk":
            shape = (size * (heads[part] if spec.qk_norm == "full" else 1),)
            name = f"{there}self_attn.{part}_norm.weight"
            yield Entry(f"{here}self_attention.{part}_layernorm.weight", ((name, shape),))
    output = (f"{there}self_attn.o_proj.weight", (width, heads["q"] * size))
    yield Entry(f"{here}self_attention.linear_proj.weight", (output,))


def _feed_forward(spec: ModelSpec, family: Family, here: str, there: str) -> Iterator[Entry]:
    width, moe = spec.hidden_size, spec.moe
    block = f"{there}block_sparse_moe." if family is MIXTRAL else f"{there}mlp."
    if moe is None and not family.experts:
        yield from _gated(f"{here}mlp.", block, width, spec.ffn_hidden_size)
        return
    if moe is None:
        yield Entry("", ((f"{block}gate.weight", (1, width)),), "any")
        yield from _gated(f"{here}mlp.", f"{block}experts.0.", width, spec.ffn_hidden_size)
        return
    yield Entry(f"{here}mlp.router.weight", ((f"{block}gate.weight", (moe.num_experts, width)),))
    if family is GLM4_MOE:
        bias = ((f"{block}gate.e_score_correction_bias", (moe.num_experts,)),)
        learnt = moe.balancing == "bias"
        yield Entry(f"{here}mlp.router.expert_bias" if learnt else "", bias, "plain" if learnt else "zeros")
    for expert in range(moe.num_experts):
        local, stored = f"{here}mlp.experts.local_experts.{expert}.", f"{block}experts.{expert}."
        yield from _gated(local, stored, width, moe.expert_ffn_hidden_size, family)
    shared = moe.shared_expert_ffn_hidden_size
    if shared:
        yield from _gated(f"{here}mlp.shared_experts.", f"{block}shared_experts.", width, shared)
    elif family is GLM4_MOE:
        # The architecture always has them, and vLLM crashes when they are zero wide.
        hidden = moe.expert_ffn_hidden_size
        names = {"gate": (hidden, width), "up": (hidden, width), "down": (width, hidden)}
        yield from (Entry("", ((f"{block}shared_experts.{n}_proj.weight", s),), "zeros") for n, s in names.items())


def _gated(here: str, there: str, width: int, hidden: int, family: Family | None = None) -> Iterator[Entry]:
    gate, up, down = ("w1", "w3", "w2") if family is MIXTRAL else ("gate_proj", "up_proj", "down_proj")
    inwards = tuple((f"{there}{name}.weight", (hidden, width)) for name in (gate, up))
    yield Entry(f"{here}linear_fc1.weight", inwards, "gated")
    yield Entry(f"{here}linear_fc2.weight", ((f"{there}{down}.weight", (width, hidden)),))


def converted(
    entry: Entry, full: torch.Tensor | None, spec: ModelSpec, dtype: torch.dtype, device: torch.device | None = None
) -> Iterator[tuple[str, torch.Tensor]]:
    """The Hugging Face tensors of an entry, by name.

    Args:
        entry: The entry.
        full: Its Megatron tensor, whose memory the others may share; None where there is none.
        spec: The architecture.
        dtype: Of what is written where there is none.
        device: The same.
    """
    if full is None:
        yield from ((name, torch.zeros(shape, dtype=dtype, device=device)) for name, shape in entry.parts)
    else:
        yield from zip(entry.huggingface, to_hf(entry, full, spec), strict=True)


def to_hf(entry: Entry, full: torch.Tensor, spec: ModelSpec) -> Sequence[torch.Tensor]:
    """The Hugging Face tensors of a Megatron tensor; they may share its memory."""
    if entry.kind == "table":
        return [full[: spec.vocab_size]]
    if entry.kind == "gated":
        return full.chunk(2)
    if entry.kind == "qkv":
        # Each group holds its query heads, then one key head and one value head.
        heads = spec.num_attention_heads // spec.num_query_groups
        grouped = full.view(spec.num_query_groups, heads + 2, spec.head_size, -1)
        return [part.reshape(-1, full.shape[1]) for part in grouped.split([heads, 1, 1], dim=1)]
    return [full]


def from_hf(entry: Entry, parts: Sequence[torch.Tensor], spec: ModelSpec) -> torch.Tensor:
    """The Megatron tensor of Hugging Face tensors; the inverse of `to_hf`."""
    if entry.kind == "table":
        return F.pad(parts[0], (0, 0, 0, spec.padded_vocab_size - spec.vocab_size))
    if entry.kind == "gated":
        return torch.cat(list(parts))
    if entry.kind == "qkv":
        grouped = [part.reshape(spec.num_query_groups, -1, spec.head_size, part.shape[1]) for part in parts]
        return torch.cat(grouped, dim=1).reshape(-1, parts[0].shape[1])
    return parts[0]
