"""A rollout in the making: the model's turns and what an environment answers, as one row of tokens."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from tatara.engine.stepped import Finished
from tatara.rl.record import Finish, Prompt, Rollout, RolloutKey, Sampling


@dataclass
class Conversation:
    """What has been said so far in one rollout."""

    key: RolloutKey
    prompt: Prompt
    sampling: Sampling
    environment: str | None
    context: int
    """Tokens that the engine can hold."""
    started: float
    """Seconds since the epoch."""
    response_ids: list[int] = field(default_factory=list)
    loss_mask: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    turns: list[str] = field(default_factory=list)
    """The model's finished turns as text; filled only where an environment reads them."""
    first_version: int = 0
    last_version: int = 0

    @property
    def token_ids(self) -> list[int]:
        """Prompt and response: what the engine continues."""
        return [*self.prompt.token_ids, *self.response_ids]

    @property
    def room(self) -> int:
        """Tokens that may follow."""
        length = len(self.prompt.token_ids) + len(self.response_ids)
        return min(self.sampling.max_tokens - len(self.response_ids), self.context - length)

    def drawing(self) -> Sampling:
        """How the next turn is drawn."""
        return replace(self.sampling, max_tokens=self.room)

    def add_turn(self, turn: Finished) -> None:
        """Append what the model said."""
        if not self.response_ids:
            self.first_version = turn.first_version
        self.last_version = turn.last_version
        self.response_ids += turn.token_ids
        self.loss_mask += [1] * len(turn.token_ids)
        self.logprobs += turn.logprobs

    def add_reply(self, token_ids: Sequence[int]) -> bool:
        """Append what the environment said, if the model can still say something after it.

        Returns:
            Whether it was appended.
        """
        if len(token_ids) >= self.room:
            return False
        self.response_ids += token_ids
        self.loss_mask += [0] * len(token_ids)
        self.logprobs += [0.0] * len(token_ids)
        return True

    def rollout(self, finish: Finish, worker: str, now: float) -> Rollout:
        """The record of it."""
        return Rollout(
            key=self.key,
            prompt_ids=self.prompt.token_ids,
            response_ids=tuple(self.response_ids),
            loss_mask=tuple(self.loss_mask),
            logprobs=tuple(self.logprobs),
            first_version=self.first_version,
            last_version=self.last_version,
            finish=finish,
            sampling=self.sampling,
            worker=worker,
            seconds=now - self.started,
        )
