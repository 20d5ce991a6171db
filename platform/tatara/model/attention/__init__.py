"""Causal attention that keeps packed documents apart, for Megatron's transformer layers.

The mask travels through Megatron's `attention_mask` argument as one tensor, made once per micro-batch by
`document_mask` and the same in every layout: `None` where rows are one document each, otherwise the cumulative document
lengths over the flattened full rows (the `cu_seqlens` of flash-attention). The module turns it into pieces (`pieces`):
a range of this rank's queries and the range of keys that they see. Cost and memory follow the documents, not the
square of the row. Kernels (`cpu`, `varlen`, `flex`) compute pieces; under context parallelism `exchange` brings
queries and keys together.
"""

from tatara.model.attention.documents import context_slice, document_mask, zigzag_positions
from tatara.model.attention.kernel import chosen_kernel
from tatara.model.attention.module import DotProductAttention

__all__ = ["DotProductAttention", "chosen_kernel", "context_slice", "document_mask", "zigzag_positions"]
