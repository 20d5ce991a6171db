"""The architecture of a decoder, dense or a mixture of experts, and its arithmetic. Imports nothing heavy."""

from typing import Literal, Self

from pydantic import Field, model_validator

from tatara.config import Config

VOCABULARY_MULTIPLE = 128


class RopeScaling(Config):
    """How rotary frequencies are stretched beyond the context that a model was first trained with."""

    type: Literal["llama3", "yarn", "linear"]
    """``llama3`` (arXiv:2407.21783, as released with Llama 3.1), ``yarn`` (arXiv:2309.00071) or ``linear``
    (position interpolation, arXiv:2306.15595)."""
    factor: float = Field(gt=0)
    """How many times longer the context becomes."""
    original_max_position_embeddings: int | None = Field(None, ge=1)
    """Context before the stretch, tokens; ``llama3`` and ``yarn`` need it."""
    low_freq_factor: float | None = Field(None, gt=0)
    """``llama3``: wavelengths above original / low_freq_factor are stretched in full (published: 1)."""
    high_freq_factor: float | None = Field(None, gt=0)
    """``llama3``: wavelengths below original / high_freq_factor are left alone (published: 4)."""
    beta_fast: float | None = Field(None, gt=0)
    """``yarn``: rotations over the original context above which a dimension is left alone; null means 32."""
    beta_slow: float | None = Field(None, gt=0)
    """``yarn``: rotations below which it is stretched in full; null means 1."""
    attention_factor: float | None = Field(None, gt=0)
    """``yarn``: factor of cosines and sines; null means 0.1 ln(factor) + 1."""

    @model_validator(mode="after")
    def _belongs(self) -> Self:
        wanted = {
            "llama3": {"original_max_position_embeddings", "low_freq_factor", "high_freq_factor"},
            "yarn": {"original_max_position_embeddings"},
            "linear": set(),
        }[self.type]
        allowed = wanted | ({"beta_fast", "beta_slow", "attention_factor"} if self.type == "yarn" else set())
        for name in type(self).model_fields.keys() - {"type", "factor"}:
            given = getattr(self, name) is not None
            if name in wanted and not given:
                raise ValueError(f"rope scaling of type {self.type} needs {name}")
            if given and name not in allowed:
                raise ValueError(f"{name} has no meaning in rope scaling of type {self.type}: leave it out")
        if self.type == "llama3" and not self.low_freq_factor < self.high_freq_factor:  # type: ignore[operator]
            raise ValueError("low_freq_factor must be smaller than high_freq_factor")
        return self


class MixtureOfExperts(Config):
    """The feed-forward of every layer as experts of which each token visits a few (arXiv:2101.03961, 2401.04088)."""

    num_experts: int = Field(8, ge=2)
    """Experts per layer."""
    top_k: int = Field(2, ge=1)
    """Experts that each token visits; none is ever dropped."""
    expert_ffn_hidden_size: int = Field(384, ge=1)
    """Width of one expert's gated feed-forward."""
    shared_expert_ffn_hidden_size: int = Field(0, ge=0)
    """Width of the expert that every token visits (arXiv:2401.06066); 0 means there is none."""
    score: Literal["softmax", "sigmoid"] = "softmax"
    """How router logits become weights; ``sigmoid`` as in DeepSeek-V3 (arXiv:2412.19437)."""
    normalize_top_k: bool = True
    """Whether the weights of a token's experts are scaled to sum to one."""
    scaling_factor: float = Field(1.0, gt=0)
    """Factor of the weights after that (DeepSeek-V3's ``routed_scaling_factor``)."""
    balancing: Literal["auxiliary", "bias", "none"] = "auxiliary"
    """``auxiliary`` adds a load-balancing loss (arXiv:2101.03961 eq. 4), ``bias`` shifts what is chosen, not what is
    weighed, after each step (arXiv:2408.15664)."""
    auxiliary_coefficient: float = Field(0.01, ge=0)
    """Weight of the auxiliary loss."""
    bias_update_rate: float = Field(1e-3, ge=0)
    """How far ``bias`` balancing moves each expert's bias per step."""
    z_loss_coefficient: float = Field(0.0, ge=0)
    """Weight of the router's z-loss (arXiv:2202.08906)."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.top_k > self.num_experts:
            raise ValueError(f"top_k {self.top_k} is more than num_experts {self.num_experts}")
        if self.top_k == 1 and self.normalize_top_k:
            raise ValueError("top_k 1 needs normalize_top_k: false (a single weight scaled to one teaches no router)")
        if self.top_k > 1 and self.score == "sigmoid" and not self.normalize_top_k:
            raise ValueError("score: sigmoid needs normalize_top_k: true (Megatron-core always scales its weights)")
        if self.balancing == "bias" and self.score != "sigmoid":
            raise ValueError("balancing by bias needs score: sigmoid (Megatron-core has it for sigmoid scores only)")
        return self


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
    rope_scaling: RopeScaling | None = None
    """How rotary frequencies are stretched; null leaves them as they are."""
    qk_norm: Literal["none", "head", "full"] = "none"
    """RMS normalisation of queries and keys before rotation: of each head (Qwen3, arXiv:2505.09388) or over all heads
    together (OLMo 2, arXiv:2501.00656; Instella)."""
    moe: MixtureOfExperts | None = None
    """Mixture of experts in the place of the feed-forward; null means a dense model. ``ffn_hidden_size`` then has no
    effect."""
    rms_norm_eps: float = Field(1e-5, gt=0)
    """Added to the mean square before the root."""
    tie_word_embeddings: bool = False
    """Whether the output projection is the input embedding."""
    init_std: float = Field(0.02, gt=0)
    """Standard deviation of initial weights; projections into the residual stream get it divided by sqrt(2 layers)."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the parameters and activations; the optimizer keeps float32 in either case."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
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

    def parameter_count(self, embeddings: bool = True, active: bool = False) -> int:
        """Number of trained parameters.

        Args:
            embeddings: Whether to count the input embedding and the output projection.
            active: Count only the experts that a token visits.
        """
        heads = self.head_size * self.num_attention_heads
        groups = self.head_size * self.num_query_groups
        attention = self.hidden_size * (2 * heads + 2 * groups)
        tables = (1 if self.tie_word_embeddings else 2) * self.vocab_size * self.hidden_size if embeddings else 0
        layer = attention + self._feed_forward_parameters(active) + self._norm_parameters()
        return self.num_layers * layer + self.hidden_size + tables

    def _feed_forward_parameters(self, active: bool) -> int:
        if self.moe is None:
            return 3 * self.hidden_size * self.ffn_hidden_size
        experts = self.moe.top_k if active else self.moe.num_experts
        widths = experts * self.moe.expert_ffn_hidden_size + self.moe.shared_expert_ffn_hidden_size
        return 3 * self.hidden_size * widths + self.hidden_size * self.moe.num_experts

    def _norm_parameters(self) -> int:
        """Of one layer."""
        heads = {"none": 0, "head": 2, "full": self.num_attention_heads + self.num_query_groups}[self.qk_norm]
        return 2 * self.hidden_size + heads * self.head_size

    def flops_per_token(self, sequence_length: float) -> float:
        """Floating-point operations of one forward and backward pass per token, matrix products only.

        Two operations per weight and token in the forward pass and twice that in the backward pass, and attention
        scores and values over half the sequence, since they are causal (arXiv:2204.02311 appendix B, which counts the
        full square; arXiv:2205.14135 halves it). Of a mixture of experts, only those that a token visits count.

        Args:
            sequence_length: Tokens that attend to each other. For packed documents, the mean over tokens of their
                document's length, which is the sum of squared lengths divided by the sum of lengths.
        """
        heads = self.head_size * self.num_attention_heads
        norms = self.num_layers * self._norm_parameters() + self.hidden_size
        matrices = self.parameter_count(embeddings=False, active=True) - norms + self.vocab_size * self.hidden_size
        return 6.0 * matrices + 6.0 * self.num_layers * heads * sequence_length
