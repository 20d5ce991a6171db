"""The ``render`` stage: its configuration."""

from typing import Literal

from pydantic import Field

from tatara.config import Config, operational
from tatara.stage import Stage


class RenderConfig(Config):
    """From conversations to tokens with loss weights, by a chat template.

    The tokenizer is a checkpoint's (input ``checkpoint``) or that of other tokens (input ``tokenizer``). Only what the
    assistant says weighs, its stop token included; conversations are packed whole.
    """

    template: Literal["auto", "chatml", "llama3", "own"] = "auto"
    """The chat template: one that comes with Tatara (``chatml``, ``llama3``) or the one that the tokenizer brings
    (``own``). ``auto`` is the tokenizer's own where it has one, else ``chatml``."""
    template_file: str | None = operational(None)
    """A Jinja file of yours that is used instead, a path or URL. Its content, not its place, decides whether the stage
    runs again. It must write the content of every message as it is, and a special token after the assistant's."""
    sequence_length: int = Field(default=512, ge=2)
    """Input and target pairs per packed sequence, tokens."""
    too_long: Literal["drop", "stop"] = "drop"
    """What to do about a conversation that is longer than a sequence: leave it out and count it, or stop. It is never
    cut: an answer without its end would teach not to stop."""


STAGE = Stage(
    name="render",
    kind="tokens",
    config=RenderConfig,
    inputs={"conversations": "conversations"},
    # One of the two: whose tokenizer to use.
    optional={"checkpoint": "checkpoint", "tokenizer": "tokens"},
    run="tatara.posttrain.render_run:run",
    sources="tatara.posttrain.render_run:sources",
    extra="data",
)
