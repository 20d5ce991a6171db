"""How a model is computed: choices that change speed and memory. Imports nothing heavy."""

from typing import Literal, Self

from pydantic import model_validator

from tatara.config import Config, operational


class ComputeSettings(Config):
    """Kernels, exchange of context, recomputation and precision of matrix products."""

    attention: Literal["auto", "sdpa", "flex", "flash"] = operational("auto")
    """Attention kernel: PyTorch's ``sdpa``, compiled ``flex``, flash-attention's ``flash``; ``auto`` takes the fastest
    that this machine has, and says which."""
    context_exchange: Literal["allgather", "a2a", "p2p"] = operational("allgather")
    """How context-parallel ranks see each other's keys and values: gathered (Llama 3, arXiv:2407.21783 section 3.3.2),
    by exchanging heads for sequence (``a2a``, Ulysses, arXiv:2309.14509), or in a ring (``p2p``, arXiv:2310.01889;
    needs Transformer Engine)."""
    recompute: Literal["none", "selective", "full"] = operational("none")
    """Activations that the backward pass computes again: none, those of attention, or those of whole layers."""
    recompute_layers: int | None = operational(None, ge=1)
    """With ``full``: layers per pipeline stage to recompute; null means all."""
    compile: bool = operational(False)
    """Whether layers go through ``torch.compile``."""
    fp8: Literal["none", "tensorwise", "delayed", "blockwise", "mxfp8"] = "none"
    """Scaling recipe of FP8 matrix products; needs a GPU and Transformer Engine. Changes results."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.recompute_layers is not None and self.recompute != "full":
            raise ValueError("recompute_layers needs recompute: full")
        return self
