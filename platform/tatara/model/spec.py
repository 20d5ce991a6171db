"""The architecture of a dense Llama-style decoder, and its arithmetic. Imports nothing heavy."""

from typing import Literal

from pydantic import Field, model_validator

from tatara.config import Config

VOCABULARY_MULTIPLE = 128


class ModelSpec(Config):
    """A decoder with RMSNorm, rotary positions, grouped-query attention and a gated feed-forward (arXiv:2302.13971).

    The defaults are a toy of about two million parameters.
    """

    vocab_size: int = Field(4096, ge=1)
    """Tokens the tokenizer knows."""
    num_layers: int = Field(4, ge=1)
    """Transformer layers."""
    hidden_size: int = Field(128, ge=1)
    """Width of the residual stream."""
    num_attention_heads: int = Field(4, ge=1)
    """Query heads."""
    num_query_groups: int = Field(2, ge=1)
    """Key/value heads; each serves num_attention_heads / num_query_groups query heads (arXiv:2305.13245)."""
    head_dim: int | None = Field(None, ge=2)
    """Width of one head; null means hidden_size / num_attention_heads."""
    ffn_hidden_size: int = Field(384, ge=1)
    """Width of the gated feed-forward."""
    max_position_embeddings: int = Field(2048, ge=1)
    """Longest sequence in tokens."""
    rope_theta: float = Field(10000.0, gt=0)
    """Base of the rotary frequencies (arXiv:2104.09864)."""
    rms_norm_eps: float = Field(1e-5, gt=0)
    """Added to the mean square before the root."""
    tie_word_embeddings: bool = False
    """Whether the output projection is the input embedding."""
    init_std: float = Field(0.02, gt=0)
    """Standard deviation of initial weights; projections into the residual stream get it divided by sqrt(2 layers)."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the parameters and activations; the optimizer keeps float32 in either case."""

    @model_validator(mode="after")
    def _consistent(self) -> "ModelSpec":
        if self.num_attention_heads % self.num_query_groups:
            raise ValueError(
                f"num_query_groups {self.num_query_groups} must divide num_attention_heads {self.num_attention_heads}"
            )
        if self.head_dim is None and self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"num_attention_heads {self.num_attention_heads} must divide hidden_size {self.hidden_size}, "
                "or head_dim must be given"
            )
        if self.head_size % 2:
            raise ValueError(f"rotary positions need an even head width, not {self.head_size}")
        return self

    @property
    def head_size(self) -> int:
        """Width of one attention head."""
        return self.head_dim or self.hidden_size // self.num_attention_heads

    @property
    def padded_vocab_size(self) -> int:
        """Rows of the embedding: vocab_size rounded up to a multiple of 128.

        The multiple does not depend on the layout (Megatron-LM multiplies it by tensor parallelism), so that a
        checkpoint has the same shapes in every layout. Rows beyond vocab_size are zero, never trained, and have no
        share in the softmax; the export leaves them out.
        """
        return -(-self.vocab_size // VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE

    def parameter_count(self, embeddings: bool = True) -> int:
        """Number of trained parameters.

        Args:
            embeddings: Whether to count the input embedding and the output projection.
        """
        heads = self.head_size * self.num_attention_heads
        groups = self.head_size * self.num_query_groups
        attention = self.hidden_size * (2 * heads + 2 * groups)
        feed_forward = 3 * self.hidden_size * self.ffn_hidden_size
        norms = 2 * self.hidden_size
        tables = (1 if self.tie_word_embeddings else 2) * self.vocab_size * self.hidden_size if embeddings else 0
        return self.num_layers * (attention + feed_forward + norms) + self.hidden_size + tables

    def flops_per_token(self, sequence_length: int) -> float:
        """Floating-point operations of one forward and backward pass per token, matrix products only.

        Two operations per weight and token in the forward pass and twice that in the backward pass, and attention
        scores and values over half the sequence, since they are causal (arXiv:2204.02311 appendix B, which counts the
        full square; arXiv:2205.14135 halves it). Shorter packed documents do less than this.
        """
        heads = self.head_size * self.num_attention_heads
        norms = self.num_layers * 2 * self.hidden_size + self.hidden_size
        matrices = self.parameter_count(embeddings=False) - norms + self.vocab_size * self.hidden_size
        return 6.0 * matrices + 6.0 * self.num_layers * heads * sequence_length
