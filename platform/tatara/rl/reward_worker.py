"""The actor that computes rewards: it takes finished rollouts from the buffer and brings their scores back."""

import contextlib
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from concurrent.futures import ALL_COMPLETED, FIRST_COMPLETED, Future, wait
from pathlib import Path
from typing import Any

from tatara.rl.client import BufferClient, StoppedError
from tatara.rl.record import Prompt, Rollout, RolloutKey, Score
from tatara.rl.rewards.completion import Completion, Verdict
from tatara.rl.rewards.config import ScoringConfig
from tatara.rl.rewards.kinds import RewardConfig, RewardModelConfig

_IDLE_SECONDS = 5.0
"""How long to wait for rollouts when there is nothing to score."""
_LOOK_SECONDS = 0.25
"""How long to wait for a score before the buffer is asked for more."""
_GATHER_SECONDS = 0.02
"""How long to wait for more scores to bring along."""

Decode = Callable[[tuple[int, ...]], str]


class RewardWorker:
    """Scores rollouts until it is told to stop; `run` is meant for one thread, the rest for another."""

    def __init__(
        self,
        name: str,
        buffer: Any,
        rewards: Mapping[str, RewardConfig],
        scoring: ScoringConfig,
        tokenizer: str | Path,
        cuda: bool = False,
    ) -> None:
        """Prepare; `run` starts what the rewards need.

        Args:
            name: Under which it leases; another one for each worker and for each life of it.
            buffer: Handle of the buffer actor.
            rewards: The rewards by name.
            scoring: How they are computed, and what becomes of failures.
            tokenizer: Directory of the policy's tokenizer and chat template.
            cuda: Whether reward models run on a GPU.
        """
        self._name, self._tokenizer, self._cuda = name, tokenizer, cuda
        self._rewards, self._scoring = dict(rewards), scoring
        self._stopping = threading.Event()
        self._client = BufferClient(buffer, scoring.buffer_seconds, self._stopping)
        self._state = "starting"
        self._scored = 0
        self._seconds: dict[str, float] = defaultdict(float)
        self._scorer: Any = None
        self._pending: dict[RolloutKey, tuple[Future[Verdict], str]] = {}
        self._taken: dict[RolloutKey, float] = {}
        self._turnaround = 0.0

    def run(self) -> None:
        """Take, score and bring back until `stop`.

        Raises:
            ConfigError: A reward cannot be made.
            TrainingError: Rewards fail more often than the configuration allows.
            EngineError: The buffer has not answered for too long, or is dead for good.
        """
        from tatara.chat.renderer import Renderer
        from tatara.rl.rewards.scorer import Scorer

        renderer = Renderer(self._tokenizer)
        self._scorer = Scorer(self._rewards, self._scoring, cuda=self._cuda)
        self._state = "running"
        try:
            with contextlib.suppress(StoppedError):
                while not self._stopping.is_set():
                    self._take(lambda ids: renderer.decode(ids, special=False))
                    self._bring()
        finally:
            self._state = "stopped"
            self._scorer.close()

    def stop(self) -> None:
        """Have `run` return soon, whether the buffer answers or not; what it holds is scored by others."""
        self._stopping.set()

    def status(self) -> dict[str, Any]:
        """What it does: ``state``, ``scored``, ``pending``, ``seconds`` by cause, ``turnaround``, and ``rewards``.

        Turnaround is the seconds that all rollouts together were here, each until the buffer had its score. The last
        are seconds, failures, values that are 0 because time ran out, and processes lost, each by name.
        """
        return {
            "worker": self._name,
            "state": self._state,
            "scored": self._scored,
            "pending": len(self._pending),
            "seconds": dict(self._seconds),
            "turnaround": self._turnaround,
            "rewards": self._scorer.status() if self._state == "running" else {},
        }

    def _take(self, decode: Decode) -> None:
        """Fill up with rollouts; wait for them only when there is nothing else to do."""
        room = self._scoring.batch - len(self._pending)
        if room <= 0:
            return
        patience = 0.0 if self._pending else _IDLE_SECONDS
        began = time.monotonic()
        leased = self._client.lease_scoring(self._name, room, patience, list(self._pending))
        took = time.monotonic() - began
        if not leased and took < patience:
            # The run is over, and the buffer does not let anybody wait any more.
            self._stopping.wait(min(0.5, patience))
        self._seconds["wait"] += time.monotonic() - began
        for prompt, rollout in leased:
            if rollout.key not in self._pending:
                completion = read_completion(prompt, rollout, decode)
                self._pending[rollout.key] = self._scorer.submit(completion), completion.response
                self._taken[rollout.key] = began + took

    def _bring(self) -> None:
        """Bring what is scored; wait a moment if nothing is."""
        if not self._pending:
            return
        began = time.monotonic()
        promises = [promise for promise, _ in self._pending.values()]
        if not wait(promises, _GATHER_SECONDS, ALL_COMPLETED).done:
            wait(promises, _LOOK_SECONDS, FIRST_COMPLETED)
        done = {key: held for key, held in self._pending.items() if held[0].done()}
        scores = [_score(key, promise.result(), response) for key, (promise, response) in done.items()]
        self._seconds["score"] += time.monotonic() - began
        if not scores:
            return
        began = time.monotonic()
        self._client.scored(self._name, scores)
        for key in done:
            del self._pending[key]
            self._turnaround += time.monotonic() - self._taken.pop(key)
        self._scored += len(scores)
        self._seconds["deliver"] += time.monotonic() - began


def read_completion(prompt: Prompt, rollout: Rollout, decode: Decode) -> Completion:
    """A rollout as rewards see it.

    Args:
        prompt: What it began with.
        rollout: The tokens.
        decode: Tokens to text without special tokens.
    """
    stops = set(rollout.sampling.stop_token_ids)
    turns = [ids[:-1] if ids[-1] in stops else ids for ids in sampled_turns(rollout)]
    return Completion(
        prompt=prompt,
        response=decode(rollout.response_ids),
        response_ids=rollout.response_ids,
        finish=rollout.finish,
        turns=tuple(decode(turn) for turn in turns),
        sampled_tokens=sum(rollout.loss_mask),
    )


def sampled_turns(rollout: Rollout) -> list[tuple[int, ...]]:
    """The tokens of each of the model's turns: what it sampled between the environment's tokens."""
    turns: list[list[int]] = []
    before = 0
    for token, mask in zip(rollout.response_ids, rollout.loss_mask, strict=True):
        if mask and not before:
            turns.append([])
        if mask:
            turns[-1].append(token)
        before = mask
    return [tuple(turn) for turn in turns]


def start_reward_worker(
    name: str,
    buffer: Any,
    rewards: Mapping[str, RewardConfig],
    scoring: ScoringConfig,
    tokenizer: str | Path,
    *,
    num_cpus: float = 0.1,
    num_gpus: float = 0.0,
) -> Any:
    """Start a reward worker as an actor of the connected cluster.

    Args:
        name: Another one for each worker and for each life of it.
        buffer: Handle of the buffer actor.
        rewards: The rewards by name.
        scoring: How they are computed, and what becomes of failures.
        tokenizer: Directory of the policy's tokenizer and chat template, which the actor's machine must see.
        num_cpus: Logical CPUs that it reserves.
        num_gpus: GPUs that it reserves, for reward models.

    Returns:
        The actor's handle; call ``run`` and look whether its promise has failed.
    """
    import ray

    from tatara.engine.environment import engine_environment

    cuda = num_gpus > 0
    models = any(isinstance(reward, RewardModelConfig) for reward in rewards.values())
    variables = engine_environment(cuda) if models else {"OMP_NUM_THREADS": "1"}
    options = {
        "num_cpus": num_cpus,
        "num_gpus": num_gpus,
        "max_concurrency": 4,
        "runtime_env": {"env_vars": variables},
    }
    arguments = (name, buffer, dict(rewards), scoring, str(tokenizer), cuda)
    return ray.remote(RewardWorker).options(**options).remote(*arguments)


def _score(key: RolloutKey, verdict: Verdict, response: str) -> Score:
    return Score(key, verdict.parts, verdict.reward, response, verdict.errors)
