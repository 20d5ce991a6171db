"""Which architecture a run trains: a preset, a size, or figures; what the tokens decide may be left out."""

import copy
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator
from pydantic.fields import FieldInfo

from tatara.config import Config, nearest
from tatara.errors import ConfigError
from tatara.model.presets import PRESETS, preset
from tatara.model.sizing import model_of_size, parse_count
from tatara.model.spec import MixtureOfExperts, ModelSpec, RopeScaling


def _of_spec(name: str) -> Any:
    """A field of `ModelSpec` that may be left out."""
    field: FieldInfo = copy.copy(ModelSpec.model_fields[name])
    field.description = f"{field.description} Left out: the preset's, what the size implies, or {field.default}."
    field.default = None
    return field


class PretrainModel(Config):
    """The architecture: what is given here wins over the preset, the preset over the size, the size over a toy."""

    preset: str | None = None
    """A published architecture, such as llama3-8b, or a toy of its kind, such as toy-mixtral."""
    params: str | int | None = Field(None, json_schema_extra={"short": "params"})
    """Number of parameters, such as 50M, from which a sensible shape is derived."""
    vocab_size: int | None = _of_spec("vocab_size")
    num_layers: int | None = _of_spec("num_layers")
    hidden_size: int | None = _of_spec("hidden_size")
    num_attention_heads: int | None = _of_spec("num_attention_heads")
    num_query_groups: int | None = _of_spec("num_query_groups")
    head_dim: int | None = _of_spec("head_dim")
    ffn_hidden_size: int | None = _of_spec("ffn_hidden_size")
    max_position_embeddings: int | None = _of_spec("max_position_embeddings")
    rope_theta: float | None = _of_spec("rope_theta")
    rope_scaling: RopeScaling | None = _of_spec("rope_scaling")
    qk_norm: Literal["none", "head", "full"] | None = _of_spec("qk_norm")
    moe: MixtureOfExperts | None = _of_spec("moe")
    rms_norm_eps: float | None = _of_spec("rms_norm_eps")
    tie_word_embeddings: bool | None = _of_spec("tie_word_embeddings")
    init_std: float | None = _of_spec("init_std")
    dtype: Literal["float32", "bfloat16"] | None = _of_spec("dtype")

    @model_validator(mode="after")
    def _known(self) -> "PretrainModel":
        if self.preset is not None and self.params is not None:
            raise ValueError("give a preset or params, not both")
        if self.preset is not None and self.preset not in PRESETS:
            raise ValueError(f"unknown preset '{self.preset}'; {nearest(self.preset, PRESETS)}")
        return self

    def resolve(self, tokenizer_size: int, sequence_length: int) -> ModelSpec:
        """The whole architecture.

        Args:
            tokenizer_size: Tokens that the tokenizer knows; the vocabulary where none is given.
            sequence_length: Longest training sequence, tokens.

        Raises:
            ConfigError: The figures contradict each other, or the model is too small for the tokens.
        """
        given = {name: value for name, value in self if name in ModelSpec.model_fields and value is not None}
        try:
            spec = self._spec(given, tokenizer_size)
        except ValidationError as error:
            first = error.errors()[0]
            what = ".".join(["model", *map(str, first["loc"])])
            raise ConfigError(f"{what}: {first['msg'].removeprefix('Value error, ')}") from None
        if spec.vocab_size < tokenizer_size:
            raise ConfigError(
                f"model.vocab_size={spec.vocab_size} is smaller than the tokenizer's {tokenizer_size}: "
                "leave it out or raise it"
            )
        if spec.max_position_embeddings < sequence_length:
            raise ConfigError(
                f"model.max_position_embeddings={spec.max_position_embeddings} is smaller than the "
                f"sequence_length={sequence_length} of the tokens: raise it"
            )
        return spec

    def _spec(self, given: dict[str, Any], tokenizer_size: int) -> ModelSpec:
        if self.preset is not None:
            return ModelSpec.model_validate({**dict(preset(self.preset)), **given})
        given.setdefault("vocab_size", tokenizer_size)
        if self.params is not None:
            return model_of_size(parse_count(self.params), **given)
        return ModelSpec.model_validate(given)
