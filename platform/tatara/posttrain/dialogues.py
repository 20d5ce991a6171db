"""The ``dialogues`` stage: its configuration."""

from typing import Literal, Self

from pydantic import Field, model_validator

from tatara.config import Config, operational
from tatara.stage import Stage


class Arithmetic(Config):
    """Problems that are made up, each with its answer: ``What is 23 + 45?`` and ``68``."""

    operations: tuple[Literal["add", "subtract", "multiply"], ...] = ("add", "subtract")
    """What is asked for; each operation gets its share of the problems that there are."""
    digits: int = Field(default=2, ge=1, le=9)
    """Digits of both numbers."""
    negative: bool = False
    """Whether a difference may be below 0; if not, the larger number comes first."""
    phrasings: tuple[str, ...] = ("What is {left} {sign} {right}?",)
    """How a problem is put, chosen by its hash."""
    train: int = Field(default=4000, ge=1)
    """Conversations to learn from, all of different problems."""
    validation: int = Field(default=200, ge=1)
    """Conversations that are held out; neither they nor their mirror images (45 + 23) occur in training."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.operations or len(set(self.operations)) < len(self.operations):
            raise ValueError("operations must be different, and at least one")
        if not self.phrasings:
            raise ValueError("phrasings must be at least one, such as 'What is {left} {sign} {right}?'")
        for phrasing in self.phrasings:
            try:
                made = {phrasing.format(left=left, sign="+", right=right) for left, right in ((1, 2), (1, 3), (2, 2))}
            except (ValueError, KeyError, IndexError, AttributeError):
                made = set()
            if len(made) < 3:
                raise ValueError(f"phrasing {phrasing!r} must have {{left}}, {{sign}} and {{right}} as its only fields")
        return self


class DialoguesConfig(Config):
    """Conversations to learn from and to be asked: made up, or from JSON lines files.

    Files hold an object per line: ``messages`` (with ``role``, ``content`` and, of an assistant's message, ``weight``
    0 or 1), ShareGPT ``conversations``, ``prompt`` and ``completion``, or ``instruction``, ``input`` and ``output``.
    Other keys become metadata, which rewards read. A conversation may end with a question.
    """

    files: tuple[str, ...] = operational(())
    """JSON lines files, directories or patterns, local or remote; none makes up arithmetic. Their content, not their
    place, decides whether the stage runs again."""
    arithmetic: Arithmetic = Arithmetic()
    """What is made up where no files are given."""
    validation_fraction: float = Field(default=0.1, gt=0, lt=1)
    """Share of the problems, or of the questions in files, that is held out, chosen by a hash: the same question is
    never in both splits."""
    bad_rows: Literal["stop", "skip"] = "stop"
    """What to do about a line that is no conversation; a skipped one is counted and named in the log."""
    seed: int = 1
    """Chooses problems, and what is held out."""


STAGE = Stage(
    name="dialogues",
    kind="conversations",
    config=DialoguesConfig,
    inputs={},
    run="tatara.posttrain.dialogues_run:run",
    sources="tatara.posttrain.dialogues_run:sources",
    extra="data",
)
