"""Where documents begin in packed rows, and which part of a row each context-parallel rank works on."""

from typing import Any

import torch
import torch.nn.functional as F


def zigzag_positions(sequence_length: int, cp_size: int, cp_rank: int) -> torch.Tensor:
    """Positions in the full sequence that a context-parallel rank holds, in its order.

    Rank r holds the chunks r and 2*cp-1-r of 2*cp, so that every rank has the same amount of causal work (Llama 3,
    arXiv:2407.21783 section 3.3.2).

    Args:
        sequence_length: Full sequence length in tokens, a multiple of 2 * cp_size.
        cp_size: Context-parallel size.
        cp_rank: Rank within it.

    Returns:
        `[sequence_length / cp_size]` int64.
    """
    if cp_size == 1:
        return torch.arange(sequence_length)
    chunks = torch.arange(sequence_length).chunk(2 * cp_size)
    return torch.cat([chunks[cp_rank], chunks[2 * cp_size - 1 - cp_rank]])


def context_slice(tensor: torch.Tensor, cp_size: int, cp_rank: int, dim: int = 1) -> torch.Tensor:
    """The part of a full `[batch, sequence]` tensor that a context-parallel rank works on."""
    if cp_size == 1:
        return tensor
    return tensor.index_select(dim, zigzag_positions(tensor.shape[dim], cp_size, cp_rank).to(tensor.device))


def document_mask(document_ids: torch.Tensor, *_: Any) -> torch.Tensor | None:
    """Build the attention mask of one micro-batch, for `DotProductAttention`; the same on every rank.

    Args:
        document_ids: `[batch, sequence]` integers, full (not context-parallel) rows; positions with the same id in
            one row are contiguous and belong together. Padding is a document of its own.

    Returns:
        `None` where every row is one document, otherwise the cumulative lengths of the documents over the flattened
        rows: `[documents + 1]` int32 that starts at 0, on the device of the ids. On the CPU it costs a GPU no wait.
    """
    batch, length = document_ids.shape
    starts = torch.ones(batch, length, dtype=torch.bool, device=document_ids.device)
    starts[:, 1:] = document_ids[:, 1:] != document_ids[:, :-1]
    bounds = starts.flatten().nonzero().flatten()
    if bounds.numel() == batch:
        return None
    return F.pad(bounds, (0, 1), value=batch * length).to(torch.int32)
