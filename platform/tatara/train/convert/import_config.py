"""The configuration of the ``import`` stage."""

from typing import Literal

from pydantic import Field

from tatara.config import Config, operational
from tatara.stage import Stage


class ImportConfig(Config):
    """From a Hugging Face directory to a Megatron checkpoint, with a proof that both compute the same."""

    path: str = operational()
    """Directory or URL with ``config.json``, safetensors files and ``tokenizer.json``. Its content, not its place,
    decides whether the stage runs again."""
    dtype: Literal["float32", "bfloat16"] | None = None
    """Type of the weights; null means as they are stored."""
    tolerance: float = Field(1e-4, gt=0)
    """Largest absolute difference of any logit between transformers and Megatron, both run in float32."""
    proof_tokens: int = Field(512, ge=16)
    """Tokens that the logits are compared on: about half random ones, the rest text in the model's own tokenizer."""
    num_cpus: float = operational(1.0, gt=0)
    """CPUs of the task that imports."""
    timeout: float = operational(7200.0, gt=0)
    """Longest time the task may take, in seconds."""


STAGE = Stage(
    name="import",
    kind="checkpoint",
    config=ImportConfig,
    inputs={},
    run="tatara.train.convert.import_run:run",
    sources="tatara.train.convert.import_source:sources",
    extra="train",
)
