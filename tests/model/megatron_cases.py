"""What the ranks of the model tests do."""

import itertools
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state, tensor_parallel

from tatara.model.attention import context_slice, document_mask, zigzag_positions
from tatara.model.megatron import (
    build_model,
    global_parameters,
    transformer_config,
)
from tatara.model.spec import ModelSpec

SEQUENCE = 64


def layout(**sizes: Any) -> Any:
    alone = {
        "tp": 1, "pp": 1, "cp": 1, "ep": 1, "virtual_stages": 1, "sequence_parallel": False,
        "first_stage_layers": None, "last_stage_layers": None,
    }  # fmt: skip
    assert sizes.keys() <= alone.keys()
    return SimpleNamespace(**(alone | sizes))


def small_spec(**changes: Any) -> ModelSpec:
    """Four layers, and a vocabulary that needs padding."""
    fields = {
        "vocab_size": 500, "hidden_size": 64, "ffn_hidden_size": 96, "num_attention_heads": 4, "num_query_groups": 2,
        "max_position_embeddings": SEQUENCE, "init_std": 0.1,
    }  # fmt: skip
    return ModelSpec(**(fields | changes))


def initialise(sizes: Any) -> None:
    parallel_state.initialize_model_parallel(
        sizes.tp,
        sizes.pp,
        virtual_pipeline_model_parallel_size=sizes.virtual_stages if sizes.virtual_stages > 1 else None,
        context_parallel_size=sizes.cp,
        expert_model_parallel_size=sizes.ep,
        expert_tensor_parallel_size=1,
    )
    tensor_parallel.model_parallel_cuda_manual_seed(1)


def chunks(spec: ModelSpec, sizes: Any, seed: int = 0) -> list[Any]:
    initialise(sizes)
    return build_model(spec, transformer_config(spec, sizes), seed)


def packed_batch(spec: ModelSpec, rows: int = 2) -> dict[str, torch.Tensor]:
    """Rows of several documents each; the last few positions of the last row are padding."""
    generator = torch.Generator().manual_seed(5)
    tokens = torch.randint(0, spec.vocab_size, (rows, SEQUENCE + 1), generator=generator)
    ids = torch.zeros(rows, SEQUENCE, dtype=torch.long)
    positions = torch.zeros(rows, SEQUENCE, dtype=torch.long)
    for row in range(rows):
        cuts = sorted((torch.randperm(SEQUENCE - 2, generator=generator)[:3] + 1).tolist())
        for document, (start, end) in enumerate(itertools.pairwise([0, *cuts, SEQUENCE])):
            ids[row, start:end] = document
            positions[row, start:end] = torch.arange(end - start)
    ids[-1, -5:] = -1
    return {"tokens": tokens[:, :-1], "targets": tokens[:, 1:], "document_ids": ids, "position_ids": positions}


def token_losses(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Per-token losses of this rank's part of the batch, without a pipeline."""
    size = parallel_state.get_context_parallel_world_size()
    rank = parallel_state.get_context_parallel_rank()
    mask = document_mask(batch["document_ids"], size, rank)
    tokens, positions, targets = (
        context_slice(batch[name], size, rank).contiguous() for name in ("tokens", "position_ids", "targets")
    )
    return model(tokens, positions, mask, labels=targets)


def losses(sizes: Any) -> torch.Tensor:
    """Losses of the whole batch, put together from the context-parallel ranks."""
    spec = small_spec()
    (model,) = chunks(spec, sizes)
    batch = packed_batch(spec)
    with torch.no_grad():
        local = token_losses(model, batch)
    parts = [torch.empty_like(local) for _ in range(sizes.cp)]
    dist.all_gather(parts, local.contiguous(), group=parallel_state.get_context_parallel_group())
    whole = torch.empty(local.shape[0], SEQUENCE)
    for rank, part in enumerate(parts):
        whole[:, zigzag_positions(SEQUENCE, sizes.cp, rank)] = part
    return whole


def losses_one_document_at_a_time() -> torch.Tensor:
    """The same losses, from rows that hold nothing but one document and start at position zero."""
    spec = small_spec()
    (model,) = chunks(spec, layout())
    batch = packed_batch(spec)
    whole = torch.empty(batch["tokens"].shape)
    with torch.no_grad():
        for row, ids in enumerate(batch["document_ids"]):
            for document in ids.unique():
                mine = ids == document
                tokens, targets = batch["tokens"][row, mine][None], batch["targets"][row, mine][None]
                positions = torch.arange(tokens.shape[1])[None]
                whole[row, mine] = model(tokens, positions, None, labels=targets.contiguous())[0]
    return whole


def padding() -> tuple[float, float, float]:
    """Share of the real vocabulary in the softmax, largest share of padding, and gradient of padding rows."""
    spec = small_spec()
    (model,) = chunks(spec, layout())
    batch = packed_batch(spec)
    shares = model(batch["tokens"], batch["position_ids"], document_mask(batch["document_ids"])).softmax(-1)
    token_losses(model, batch).sum().backward()
    gradient = model.output_layer.weight.grad
    return (
        float(shares[..., : spec.vocab_size].sum(-1).min()),
        float(shares[..., spec.vocab_size :].max()),
        float(gradient[spec.vocab_size :].abs().max()),
    )


def weights(seed: int) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in global_parameters(chunks(small_spec(), layout(), seed))}


def gradients(**overrides: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Losses of a packed batch and the gradient of every parameter."""
    spec = small_spec()
    initialise(layout())
    (model,) = build_model(spec, transformer_config(spec, layout(), **overrides))
    losses = token_losses(model, packed_batch(spec))
    losses.sum().backward()
    return losses.detach(), {name: parameter.grad for name, parameter in global_parameters([model])}
