"""The configuration of the ``tokenize`` stage."""

from typing import Literal, Self

from pydantic import Field, model_validator

from tatara.config import Config, operational
from tatara.data.packing.config import PackingConfig
from tatara.stage import Stage

RESERVED = "<|reserved_{}|>"


class TokenizeConfig(Config):
    """From documents to a tokenizer, token files and a packing plan."""

    vocab_size: int = Field(default=4096, ge=257, le=1_000_000)
    """Size of the vocabulary that is trained, tokens: 256 bytes, the special and reserved tokens, and merges. Without
    meaning where a tokenizer is given."""
    split: Literal["qwen3.5", "qwen2", "llama3"] = "qwen3.5"
    """How text is cut into the words that merges stay in. Digits stand alone with ``qwen3.5`` and ``qwen2``, in groups
    of up to three with ``llama3``; only ``qwen3.5`` keeps combining marks with their letters."""
    special_tokens: tuple[str, ...] = ()
    """Special tokens besides ``<|endoftext|>``, such as those of a chat template."""
    reserved_tokens: int = Field(default=0, ge=0)
    """Special tokens ``<|reserved_0|>``, ... kept for later use."""
    tokenizer: str | None = operational(None)
    """A directory with a ``tokenizer.json`` that is used instead of training one. Its content, not its place, decides
    whether the stage runs again."""
    extend_to: int | None = Field(default=None, ge=258)
    """Size that the given tokenizer's vocabulary is extended to, tokens. What is learnt is appended: tokens keep their
    numbers, and text becomes what it was before, with some neighbouring tokens merged into new ones."""
    training_bytes: int = Field(default=64_000_000, gt=0)
    """Text that the tokenizer is trained on, bytes at most; documents are chosen by a hash of their ids."""
    training_languages: tuple[str, ...] = ()
    """Languages (ISO 639-1) of the documents that the tokenizer is trained on; every one if empty."""
    sequence_length: int = Field(default=512, ge=2)
    """Input and target pairs per packed sequence, tokens."""
    packing: PackingConfig = PackingConfig()
    """How documents become sequences."""
    validation_fraction: float = Field(default=0.01, gt=0, lt=1)
    """Share of documents held out, chosen by a hash of their ids."""
    engine: Literal["auto", "gigatoken", "huggingface"] = operational("auto")
    """What tokenises: ``gigatoken``, far faster, or the reference, Hugging Face ``tokenizers``; the tokens are the
    same. ``auto`` takes gigatoken where it knows the tokenizer and agrees with the reference on a sample."""
    seed: int = 1
    """Chooses which documents are held out."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        named = self.special_tokens
        if len(set(named)) < len(named) or any(not token for token in named):
            raise ValueError("special_tokens must be different and not empty")
        least = 257 + len(named) + self.reserved_tokens
        if self.tokenizer is None and self.vocab_size < least:
            raise ValueError(f"vocab_size {self.vocab_size} has no room for 256 bytes and {least - 256} special tokens")
        if self.tokenizer is None and self.extend_to is not None:
            raise ValueError("extend_to needs the tokenizer to extend: --tokenizer DIRECTORY")
        if self.tokenizer is not None and (named or self.reserved_tokens):
            raise ValueError("special and reserved tokens are those of the given tokenizer; leave both out")
        return self

    @property
    def reserve(self) -> tuple[str, ...]:
        """All special tokens but the end-of-text token."""
        return (*self.special_tokens, *(RESERVED.format(i) for i in range(self.reserved_tokens)))


STAGE = Stage(
    name="tokenize",
    kind="tokens",
    config=TokenizeConfig,
    inputs={"documents": "documents"},
    # Tokens whose tokenizer is to be used: sources of one training run share theirs.
    optional={"tokenizer": "tokens"},
    run="tatara.data.tokenize_run:run",
    sources="tatara.data.tokenizer.directory:sources",
    extra="data",
)
