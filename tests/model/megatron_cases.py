"""What the ranks of the model tests do."""

import itertools
from types import SimpleNamespace
from typing import Any

import torch
from megatron.core import parallel_state, tensor_parallel

from tatara.model.attention import context_slice, document_mask
from tatara.model.megatron import build_model, transformer_config
from tatara.model.spec import ModelSpec

SEQUENCE = 64


def layout(tp: int = 1, pp: int = 1, cp: int = 1, virtual_stages: int = 1, sequence_parallel: bool = False) -> Any:
    return SimpleNamespace(tp=tp, pp=pp, cp=cp, virtual_stages=virtual_stages, sequence_parallel=sequence_parallel)


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
