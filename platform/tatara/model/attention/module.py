"""The core attention of Megatron's transformer layers."""

import importlib.util
from typing import Any, Literal

import torch
from megatron.core import parallel_state
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.transformer_config import TransformerConfig

from tatara.errors import EngineError
from tatara.model.attention import exchange as context
from tatara.model.attention.kernel import Wanted, chosen_kernel
from tatara.model.attention.pieces import Work, read_bounds


class DotProductAttention(MegatronModule):
    """Causal grouped-query attention within documents, in the place of Megatron's core attention.

    It takes query `[sequence, batch, heads, head_dim]` and key and value `[sequence, batch, groups, head_dim]`, local
    to this tensor- and context-parallel rank, and returns `[sequence, batch, heads * head_dim]`.

    Attributes:
        scale: Of the scores; None means head_dim ** -0.5. Read at every call.
        kernel: What computes it.
    """

    def __init__(
        self,
        config: TransformerConfig,
        layer_number: int,
        *_: Any,
        kernel: Wanted = "auto",
        exchange: Literal["allgather", "a2a", "p2p"] = "allgather",
        attention_type: str = "self",
        pg_collection: Any = None,
        **__: Any,
    ) -> None:
        """Choose the kernel and check what the exchange needs.

        Args:
            config: Of the model.
            layer_number: From 1.
            kernel: ``sdpa``, ``flex``, ``flash``, or ``auto`` for the fastest that the machine has.
            exchange: How context-parallel ranks see each other's keys and values: ``allgather``, ``a2a`` (heads for
                sequence) or ``p2p`` (Transformer Engine's ring; rows of one document only).
            attention_type: As Megatron says it.
            pg_collection: Process groups; without, Megatron's global ones.

        Raises:
            EngineError: The machine lacks what the kernel or the exchange needs.
            LayoutError: The exchange cannot divide the heads.
        """
        super().__init__(config)
        self.layer_number = layer_number
        self.attention_type = attention_type
        self.scale: float | None = config.softmax_scale
        self.groups = pg_collection
        self.cp_group = parallel_state.get_context_parallel_group() if pg_collection is None else pg_collection.cp
        self.exchange = exchange if self.cp_group.size() > 1 else None
        self.kernel = chosen_kernel(kernel, config.params_dtype)
        # Not a submodule: it has no parameters, and its state has no place in checkpoints.
        self._ring: tuple[float | None, Any] | None = None
        if self.exchange == "a2a":
            tp = config.tensor_model_parallel_size
            context.check_heads(
                config.num_attention_heads // tp,
                config.num_query_groups // tp,
                self.cp_group.size(),
                f"of a tensor-parallel rank (tp {tp})",
            )
        if self.exchange == "p2p":
            _check_ring()

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        *_: Any,
        **__: Any,
    ) -> torch.Tensor:
        """Attend; `attention_mask` is what `document_mask` made of the full rows."""
        if self.exchange == "p2p":
            return self._attend_in_a_ring(query, key, value, attention_mask)
        cp, rank = self.cp_group.size(), self.cp_group.rank()
        sequence, batch = query.shape[:2]
        bounds = read_bounds(attention_mask)
        if self.exchange == "a2a":
            work = Work(bounds, batch, sequence * cp)
            parts = context.sequence_to_heads(query, key, value, self.cp_group)
            output = context.heads_to_sequence(self.kernel.attend(*parts, work, self.scale), self.cp_group)
        else:
            work = Work(bounds, batch, sequence * cp, cp, rank)
            query = query.transpose(0, 1)
            if cp > 1:
                key, value = context.gather_context(key, value, self.cp_group)
            else:
                key, value = key.transpose(0, 1), value.transpose(0, 1)
            output = self.kernel.attend(query, key, value, work, self.scale)
        return output.transpose(0, 1).reshape(sequence, batch, -1)

    def _attend_in_a_ring(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attention_mask: torch.Tensor | None
    ) -> torch.Tensor:
        if attention_mask is not None:
            raise EngineError("context exchange p2p cannot keep packed documents apart: use allgather or a2a")
        if self._ring is None or self._ring[0] != self.scale:
            from megatron.core.extensions.transformer_engine import TEDotProductAttention

            ring = TEDotProductAttention(
                self.config,
                self.layer_number,
                AttnMaskType.causal,
                self.attention_type,
                softmax_scale=self.scale,
                cp_comm_type="p2p",
                pg_collection=self.groups,
            )
            self._ring = (self.scale, ring)
        output: torch.Tensor = self._ring[1](query, key, value, None, AttnMaskType.causal)
        return output


def _check_ring() -> None:
    missing = None if importlib.util.find_spec("transformer_engine") else "Transformer Engine, which is not installed"
    if not torch.cuda.is_available():
        missing = "a GPU, and this machine has none"
    if missing:
        raise EngineError(f"context exchange p2p needs {missing}: use allgather or a2a")
