"""What a reward is given, and what comes of it."""

from dataclasses import dataclass, field

from tatara.rl.record import Finish, Prompt


@dataclass(frozen=True)
class Completion:
    """A finished response, as rewards see it."""

    prompt: Prompt
    response: str
    """All that follows the prompt as text, what an environment answered included; special tokens left out."""
    response_ids: tuple[int, ...] = ()
    finish: Finish = "stop"
    turns: tuple[str, ...] = ()
    """Text of each of the model's own turns; a single-turn response has one."""
    sampled_tokens: int = 0
    """Tokens that the model sampled, those of an environment not counted."""

    @property
    def answer(self) -> str:
        """The model's last turn: where an answer is looked for, so that a tool's output is never taken for one."""
        return self.turns[-1] if self.turns else self.response


@dataclass(frozen=True)
class Failure:
    """A reward that has no value for a completion."""

    reason: str
    """One line."""


Result = float | Failure


@dataclass(frozen=True)
class Verdict:
    """All rewards of one completion, weighted."""

    parts: dict[str, float]
    """Each reward's value after its ``scale`` and ``clip``, before its weight."""
    reward: float
    """Weighted sum of the parts."""
    errors: dict[str, str] = field(default_factory=dict)
    """Rewards that failed, with one line why: then the completion is not trained on."""


def one_line(text: str, limit: int = 300) -> str:
    """A message as one line of bounded length."""
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"
