"""What a stepped engine is asked, and what it answers."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from vllm import SamplingParams


class Drawing(Protocol):
    """How tokens are drawn; `tatara.rl.record.Sampling` is one."""

    @property
    def max_tokens(self) -> int: ...  # noqa: D102
    @property
    def temperature(self) -> float: ...  # noqa: D102
    @property
    def top_p(self) -> float: ...  # noqa: D102
    @property
    def top_k(self) -> int: ...  # noqa: D102
    @property
    def stop_token_ids(self) -> tuple[int, ...]: ...  # noqa: D102


@dataclass(frozen=True)
class Finished:
    """A sampled continuation."""

    request_id: str
    token_ids: tuple[int, ...]
    """Stop token included."""
    logprobs: tuple[float, ...]
    """Of each token at the sampling temperature, in nats."""
    finish: Literal["stop", "length"]
    first_version: int
    """Version of the weights that gave the first token."""
    last_version: int


@dataclass
class Request:
    """A request in flight."""

    request_id: str
    prompt: tuple[int, ...]
    params: "SamplingParams"
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    first_version: int = 0
    last_version: int = 0
    prompt_logprobs: list[float] | None = None
    finish: str | None = None

    def finished(self) -> Finished:
        """The result, once vLLM has said how it ended."""
        # vLLM calls a found stop token "stop"; anything else that ends a request cuts it off.
        finish: Literal["stop", "length"] = "stop" if self.finish == "stop" else "length"
        ids, logprobs = tuple(self.token_ids), tuple(self.logprobs)
        return Finished(self.request_id, ids, logprobs, finish, self.first_version, self.last_version)
