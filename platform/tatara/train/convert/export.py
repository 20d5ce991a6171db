"""The configuration of the ``export`` stage."""

from pydantic import Field, field_validator

from tatara.config import Config, operational
from tatara.stage import Stage


class ExportConfig(Config):
    """From a Megatron checkpoint to a Hugging Face directory, with a proof that both compute the same."""

    tolerance: float = Field(1e-4, gt=0)
    """Largest absolute difference of any logit between Megatron and the exported files, both run in float32."""
    proof_tokens: int = Field(512, ge=0)
    """Tokens that the logits are compared on, at least 16: about half random ones, the rest text in the model's own
    tokenizer. That takes memory for the model twice in float32; 0 leaves it out, and one tensor at a time is read,
    written and accounted for."""
    max_shard_size: int = Field(5_000_000_000, ge=1)
    """Largest safetensors file in bytes; a single larger tensor still makes one file."""
    num_cpus: float = operational(1.0, gt=0)
    """CPUs of the task that exports."""
    timeout: float = operational(7200.0, gt=0)
    """Longest time the task may take, in seconds."""

    @field_validator("proof_tokens")
    @classmethod
    def _enough(cls, value: int) -> int:
        if 0 < value < 16:
            raise ValueError(f"{value} tokens prove nothing: take 16 or more, or 0 for no proof")
        return value


STAGE = Stage(
    name="export",
    kind="model",
    config=ExportConfig,
    inputs={"checkpoint": "checkpoint"},
    run="tatara.train.convert.export_run:run",
    extra="train",
)
