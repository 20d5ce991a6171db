"""What the ranks of the weight stream's tests do."""

from collections.abc import Iterator
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from model.megatron_cases import SEQUENCE, chunks, layout, packed_batch, small_spec
from tatara.errors import ArtifactError
from tatara.model.hf import hf_config, load_from_hf, stream_to_hf
from tatara.model.megatron import global_parameters


def stream(sizes: Any, **changes: Any) -> dict[str, torch.Tensor]:
    spec = small_spec(**changes)
    return {name: tensor.clone() for name, tensor in stream_to_hf(chunks(spec, sizes), spec)}


def reload(sizes: Any, tensors: dict[str, torch.Tensor], **changes: Any) -> dict[str, torch.Tensor]:
    """Load tensors into a model of other weights, and stream that."""
    spec = small_spec(**changes)
    model = chunks(spec, sizes, seed=9)
    load_from_hf(model, spec, reversed(tensors.items()))
    tied = [chunk.shared_embedding_or_output_weight() for chunk in model if spec.tie_word_embeddings]
    for table in tied:
        if table is not None:
            assert torch.equal(table[: spec.vocab_size], tensors["model.embed_tokens.weight"])
    return {name: tensor.clone() for name, tensor in stream_to_hf(model, spec)}


def logits(from_transformers: bool, **changes: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of both implementations, after one was given the weights of the other."""
    spec = small_spec(**changes)
    (model,) = chunks(spec, layout())
    torch.manual_seed(3)
    other = LlamaForCausalLM(LlamaConfig(**hf_config(spec)))
    if from_transformers:
        state = other.state_dict()
        if spec.tie_word_embeddings:
            del state["lm_head.weight"]
        load_from_hf([model], spec, state.items())
    else:
        missing, unexpected = other.load_state_dict(dict(stream_to_hf([model], spec)), strict=False)
        assert not unexpected
        assert missing == (["lm_head.weight"] if spec.tie_word_embeddings else [])
    tokens = packed_batch(spec)["tokens"]
    with torch.no_grad():
        mine = model(tokens, torch.arange(SEQUENCE).expand_as(tokens), None)
        return mine[..., : spec.vocab_size], other(tokens, use_cache=False).logits


def refusals() -> dict[str, str]:
    """What is said to weights that do not fit."""
    spec = small_spec()
    model = chunks(spec, layout())
    good = dict(stream_to_hf(model, spec))
    name = "model.layers.2.self_attn.k_proj.weight"

    def refused(tensors: Iterator[tuple[str, torch.Tensor]]) -> str:
        try:
            load_from_hf(model, spec, tensors)
        except ArtifactError as error:
            return str(error)
        return "loaded"

    said = {
        "missing": refused((key, value) for key, value in good.items() if key != name),
        "unexpected": refused(iter([*good.items(), ("model.layers.4.mlp.up_proj.weight", good[name])])),
        "twice": refused(iter([*good.items(), (name, good[name])])),
        "shape": refused(iter((good | {name: good[name][:-1]}).items())),
    }
    other = small_spec(num_layers=3)
    try:
        list(stream_to_hf(model, other))
    except ArtifactError as error:
        said["other architecture"] = str(error)
    return said


def names(sizes: Any) -> list[str]:
    return [name for name, _ in global_parameters(chunks(small_spec(), sizes))]
