"""Attention by kernels that take packed sequences of any length (`cu_seqlens`), as flash-attention does on GPUs."""

import importlib
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F

from tatara.model.attention.pieces import Piece, Work


@dataclass(frozen=True)
class PackedCall:
    """One call of such a kernel: sequences of queries, one after the other, each with its sequence of keys.

    The mask is causal and aligned to the last query and the last key of each sequence.
    """

    positions: tuple[int, int]
    """Which of this rank's positions, of every row, are the queries."""
    key_index: torch.Tensor | None
    """Which of the flattened full rows are the keys, in their order; None means all."""
    query_lengths: tuple[int, ...]
    """Per sequence."""
    key_lengths: tuple[int, ...]
    """Per sequence."""
    query_bounds: torch.Tensor
    """Cumulative lengths, `[sequences + 1]` int32 from 0."""
    key_bounds: torch.Tensor
    """Likewise."""

    @property
    def longest(self) -> tuple[int, int]:
        """Queries and keys of the longest sequence of each."""
        return max(self.query_lengths), max(self.key_lengths)


Kernel = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, PackedCall, float | None], torch.Tensor]
"""Packed queries `[tokens, heads, head_dim]`, keys and values `[tokens, groups, head_dim]`, the call and the scale."""


@lru_cache(maxsize=64)
def packed_calls(work: Work, device: torch.device) -> tuple[PackedCall, ...]:
    """The calls that do all of the work: one per chunk that the rank holds, since keys follow each other in a call."""
    pieces = work.pieces()
    calls, held = [], 0
    for first, last in work.chunks:
        end = held + last - first
        mine = [piece for piece in pieces if held <= piece.queries[0] < end]
        # A piece of several rows is a sequence in each.
        each = [(row, piece) for piece in mine for row in range(*piece.rows)]
        calls.append(_call((held, end), each, work, device))
        held = end
    return tuple(calls)


def _call(positions: tuple[int, int], each: list[tuple[int, Piece]], work: Work, device: torch.device) -> PackedCall:
    queries = tuple(piece.queries[1] - piece.queries[0] for _, piece in each)
    keys = tuple(piece.keys[1] - piece.keys[0] for _, piece in each)
    index = None
    if sum(keys) < work.batch * work.length:
        ranges = [torch.arange(*piece.keys) + row * work.length for row, piece in each]
        index = torch.cat(ranges).to(device)
    bounds = (
        torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32).to(device) for lengths in (queries, keys)
    )
    return PackedCall(positions, index, queries, keys, *bounds)


def attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, work: Work, scale: float | None, kernel: Kernel
) -> torch.Tensor:
    """Attention of this rank's queries to all keys; shapes as in `cpu.attend`."""
    outputs = []
    for call in packed_calls(work, query.device):
        queries = query[:, slice(*call.positions)].flatten(0, 1)
        keys, values = key.flatten(0, 1), value.flatten(0, 1)
        if call.key_index is not None:
            keys, values = keys.index_select(0, call.key_index), values.index_select(0, call.key_index)
        outputs.append(kernel(queries, keys, values, call, scale).unflatten(0, (work.batch, -1)))
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1)


def sdpa(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, call: PackedCall, scale: float | None
) -> torch.Tensor:
    """PyTorch's attention, one sequence after the other: for any device and type, and slow with many documents."""
    # `split` has a cheap backward (one concatenation); slicing would make a full-size gradient for each sequence.
    queries = query.transpose(0, 1)[None].split(call.query_lengths, dim=2)
    keys, values = (tensor.transpose(0, 1)[None].split(call.key_lengths, dim=2) for tensor in (key, value))
    repeats = query.shape[1] != key.shape[1]
    outputs = []
    for q, k, v in zip(queries, keys, values, strict=True):
        square = q.shape[2] == k.shape[2]
        mask = None if square else _lower_right(q.shape[2], k.shape[2])
        attended = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=square, scale=scale, enable_gqa=repeats
        )
        outputs.append(attended)
    return torch.cat(outputs, dim=2)[0].transpose(0, 1)


def flash_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, call: PackedCall, scale: float | None
) -> torch.Tensor:
    """flash-attn 2 (arXiv:2307.08691), whose causal mask is aligned to the end since 2.1."""
    function = importlib.import_module("flash_attn").flash_attn_varlen_func
    deterministic = torch.are_deterministic_algorithms_enabled()
    bounds = call.query_bounds, call.key_bounds, *call.longest
    output: torch.Tensor = function(
        query, key, value, *bounds, softmax_scale=scale, causal=True, deterministic=deterministic
    )
    return output


def flash_attention_3(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, call: PackedCall, scale: float | None
) -> torch.Tensor:
    """FlashAttention-3 for Hopper (arXiv:2407.08608). Early versions return the log-sum-exp too."""
    function = importlib.import_module("flash_attn_interface").flash_attn_varlen_func
    deterministic = torch.are_deterministic_algorithms_enabled()
    bounds = call.query_bounds, call.key_bounds, *call.longest
    output = function(query, key, value, *bounds, softmax_scale=scale, causal=True, deterministic=deterministic)
    first: torch.Tensor = output[0] if isinstance(output, tuple) else output
    return first


def torch_varlen(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, call: PackedCall, scale: float | None
) -> torch.Tensor:
    """The flash-attention inside of PyTorch."""
    function = importlib.import_module("torch.nn.attention.varlen").varlen_attn
    bounds = call.query_bounds, call.key_bounds, *call.longest
    output: torch.Tensor = function(query, key, value, *bounds, scale=scale, window_size=(-1, 0), enable_gqa=True)
    return output


def _lower_right(queries: int, keys: int) -> torch.Tensor:
    # Brings the compiler along, which a worker on a CPU does without.
    from torch.nn.attention.bias import causal_lower_right

    return causal_lower_right(queries, keys)
