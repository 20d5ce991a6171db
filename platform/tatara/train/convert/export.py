"""The configuration of the ``export`` stage."""

from pydantic import Field

from tatara.config import Config, operational
from tatara.stage import Stage


class ExportConfig(Config):
    """From a Megatron checkpoint to a Hugging Face directory, with a proof that both compute the same."""

    tolerance: float = Field(1e-4, gt=0)
    """Largest absolute difference of any logit between Megatron and the exported files, both run in float32."""
    proof_tokens: int = Field(512, ge=16)
    """Tokens that the logits are compared on: about half random ones, the rest text in the model's own tokenizer."""
    max_shard_size: int = Field(5_000_000_000, ge=1)
    """Largest safetensors file in bytes; a single larger tensor still makes one file."""
    num_cpus: float = operational(1.0, gt=0)
    """CPUs of the task that exports."""
    timeout: float = operational(7200.0, gt=0)
    """Longest time the task may take, in seconds."""


STAGE = Stage(
    name="export",
    kind="model",
    config=ExportConfig,
    inputs={"checkpoint": "checkpoint"},
    run="tatara.train.convert.export_run:run",
    extra="train",
)
