"""How documents are packed into sequences of one length."""

from typing import Literal

from pydantic import Field

from tatara.config import Config


class LongDocuments(Config):
    """A rule that lets long documents occur more often, for training on long contexts."""

    min_tokens: int = Field(ge=2)
    """Tokens from which a document counts as long."""
    repeat: int = Field(default=2, ge=0)
    """How often such a document occurs for each time it would have occurred; 0 leaves it out."""
    sources: tuple[str, ...] = ("*",)
    """Shell patterns over a document's source: the domains that the rule is for."""


class PackingConfig(Config):
    """How documents become sequences.

    Documents with more pairs than a sequence are cut into chunks that overlap by one token, so that every token but a
    document's first is a target exactly once.
    """

    strategy: Literal["best_fit", "concatenate", "length_bucketed"] = "best_fit"
    """``best_fit``: no document is cut unless it is longer than a sequence; best-fit decreasing (Ding et al. 2024,
    arXiv:2404.10830, section 3.2). ``concatenate``: one document after the other, cut wherever a sequence is full;
    every sequence is full. ``length_bucketed``: like concatenate, but documents are ordered by the power of two that
    their length reaches, longest first, so that a sequence holds documents of similar length. Attention never crosses
    documents with any of them."""
    min_chunk: int = Field(default=128, ge=1)
    """Pairs in the last chunk of a document that is longer than a sequence, at least (at most half a sequence is
    asked for). Where the rest is smaller, the chunk before it gives up what is lacking. Only for best_fit."""
    long_documents: tuple[LongDocuments, ...] = ()
    """Rules that repeat long documents in the training split; a document follows the first rule that fits it."""
