"""What an environment is asked, and what it answers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from tatara.rl.record import Finish, Prompt


@dataclass(frozen=True)
class Reply:
    """What an environment says to a turn of the model."""

    messages: tuple[dict[str, Any], ...] = ()
    """Messages with ``role`` and ``content``, rendered by the chat template and appended with loss mask 0."""
    finish: Finish | None = None
    """Why the rollout ends with the model's turn: then the messages are not appended. None: the model goes on."""


class Environment(Protocol):
    """Answers the model's turns. One object serves many rollouts and threads, so it keeps nothing between calls."""

    def reply(self, prompt: Prompt, turns_so_far: Sequence[str], last_turn: str) -> Reply | None:
        """Answer a turn.

        Args:
            prompt: What the rollout began with.
            turns_so_far: The model's turns before the last one.
            last_turn: The model's last turn as text, without its stop token.

        Returns:
            What it says, or None when the model is finished.
        """
