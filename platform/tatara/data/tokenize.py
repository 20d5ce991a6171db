"""The configuration of the ``tokenize`` stage."""

from pydantic import Field

from tatara.config import Config
from tatara.stage import Stage


class TokenizeConfig(Config):
    """From documents to a tokenizer, token files and a packing plan."""

    vocab_size: int = Field(default=4096, ge=257)
    """Size of the vocabulary that is trained, tokens: 256 bytes, the special token and merges."""
    training_bytes: int = Field(default=64_000_000, gt=0)
    """Text that the tokenizer is trained on, bytes at most; documents are chosen by a hash of their ids."""
    sequence_length: int = Field(default=512, ge=2)
    """Input and target pairs per packed sequence, tokens."""
    validation_fraction: float = Field(default=0.01, gt=0, lt=1)
    """Share of documents held out, chosen by a hash of their ids."""
    seed: int = 1
    """Chooses which documents are held out."""


STAGE = Stage(
    name="tokenize",
    kind="tokens",
    config=TokenizeConfig,
    inputs={"documents": "documents"},
    run="tatara.data.tokenize_run:run",
    extra="data",
)
