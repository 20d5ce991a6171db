"""All rewards of a run: computed side by side, weighted, and what becomes of failures."""

import threading
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from concurrent.futures import Future

from tatara.errors import ConfigError, MissingExtraError, TataraError, TrainingError
from tatara.rl.rewards.completion import Completion, Failure, Result, Verdict
from tatara.rl.rewards.config import ScoringConfig
from tatara.rl.rewards.functions import FUNCTIONS
from tatara.rl.rewards.judge import Judge
from tatara.rl.rewards.kinds import CodeConfig, JudgeConfig, RewardConfig, RewardModelConfig
from tatara.rl.rewards.lanes import BatchLane, Lane, Results, ThreadLane
from tatara.rl.rewards.pool import FunctionPool

_REWARD_MODEL_BATCH = 32


class Scorer:
    """Computes the rewards of completions; may be used by several threads at a time."""

    def __init__(self, rewards: Mapping[str, RewardConfig], scoring: ScoringConfig, *, cuda: bool = False) -> None:
        """Start processes, load models and check what the configuration names.

        Args:
            rewards: The rewards by name.
            scoring: How they are computed, and what becomes of failures.
            cuda: Whether reward models run on a GPU.

        Raises:
            ConfigError: A reward cannot be made; the line names it.
            EngineError: A reward model does not load, or this machine has no sandbox.
            MissingExtraError: A package that a reward needs is not installed.
        """
        self._rewards = dict(rewards)
        self._policy = ErrorPolicy(scoring)
        self._lanes: list[Lane] = []
        try:
            for lane in _lanes(self._rewards, scoring, cuda):
                self._lanes.append(lane)
            self._pool = self._lanes[0] if self._lanes and isinstance(self._lanes[0], FunctionPool) else None
            for lane in self._lanes:
                if isinstance(lane, FunctionPool | BatchLane):
                    lane.start()
        except TataraError:
            self.close()
            raise

    def submit(self, completion: Completion) -> "Future[Verdict]":
        """Promise the verdict on a completion.

        The promise holds a `TrainingError` where a failure must end the run.
        """
        verdict: Future[Verdict] = Future()
        promises = [lane.submit(completion) for lane in self._lanes]
        left, lock = [len(promises)], threading.Lock()

        def arrived(_: "Future[Results]") -> None:
            with lock:
                left[0] -= 1
                if left[0]:
                    return
            try:
                verdict.set_result(self._judge(completion, _merged(promises)))
            # Whoever asked gets it, whatever it is.
            except BaseException as error:
                verdict.set_exception(error)

        for promise in promises:
            promise.add_done_callback(arrived)
        return verdict

    def score(self, completions: Iterable[Completion]) -> list[Verdict]:
        """The verdicts on some completions, when all are there.

        Raises:
            TrainingError: A failure must end the run.
        """
        return [promise.result() for promise in [self.submit(completion) for completion in completions]]

    def status(self) -> dict[str, dict[str, float]]:
        """Seconds in each reward; failures, values that are 0 because time ran out, and processes lost, by reward."""
        seconds = {name: spent for lane in self._lanes for name, spent in lane.seconds.items()}
        pool = self._pool
        return {
            "seconds": seconds,
            "failures": dict(self._policy.failures),
            "stuck": dict(pool.stuck) if isinstance(pool, FunctionPool) else {},
            "restarts": dict(pool.restarts) if isinstance(pool, FunctionPool) else {},
        }

    def close(self) -> None:
        """End processes, threads and connections."""
        for lane in self._lanes:
            lane.close()

    def _judge(self, completion: Completion, results: Results) -> Verdict:
        parts: dict[str, float] = {}
        errors: dict[str, str] = {}
        for name, config in self._rewards.items():
            result = results[name]
            value = self._policy.decide(name, result, completion.prompt.id)
            if value is None:
                assert isinstance(result, Failure)
                errors[name] = result.reason
            else:
                # What stands in for a failed reward is 0 whatever its scale.
                parts[name] = value if isinstance(result, Failure) else config.transform(value)
        total = sum(self._rewards[name].weight * value for name, value in parts.items())
        return Verdict(parts, total, errors)


class ErrorPolicy:
    """Decides what a reward's failure means, and when there are too many.

    Attributes:
        failures: How many there were, by reward.
    """

    def __init__(self, scoring: ScoringConfig) -> None:
        self._scoring = scoring
        self._recent: dict[str, deque[bool]] = {}
        self._lock = threading.Lock()
        self.failures: Counter[str] = Counter()

    def decide(self, name: str, result: Result, prompt: str) -> float | None:
        """The value that counts; None where the completion is not to be trained on.

        Raises:
            TrainingError: The run must end; the line names the reward, the error and the prompt.
        """
        failed = isinstance(result, Failure)
        with self._lock:
            recent = self._recent.setdefault(name, deque(maxlen=self._scoring.error_window))
            recent.append(failed)
            self.failures[name] += failed
            many = sum(recent)
        if not isinstance(result, Failure):
            return result
        if self._scoring.on_error == "fail":
            raise TrainingError(
                f"reward '{name}' failed on prompt '{prompt}': {result.reason} (scoring.on_error is fail)"
            )
        if many > self._scoring.max_error_share * self._scoring.error_window:
            raise TrainingError(
                f"reward '{name}' failed on {many} of its last {len(recent)} values, last on prompt '{prompt}': "
                f"{result.reason}; correct it, or raise scoring.max_error_share"
            )
        return 0.0 if self._scoring.on_error == "zero" else None


def check_rewards(rewards: Mapping[str, RewardConfig], scoring: ScoringConfig) -> None:
    """Refuse, before a run starts, rewards that cannot be made; functions are imported in a process of their own.

    Raises:
        ConfigError: A reward cannot be made; the line names it.
        EngineError: A reward model is not there, or this machine has no sandbox.
        MissingExtraError: A package that a reward needs is not installed.
    """
    from tatara.rl.rewards.reward_model import check_reward_model

    for name, config in rewards.items():
        if isinstance(config, RewardModelConfig):
            check_reward_model(config, name)
    light = {name: config for name, config in rewards.items() if not isinstance(config, RewardModelConfig)}
    Scorer(light, scoring.model_copy(update={"processes": 1})).close()


def _lanes(rewards: Mapping[str, RewardConfig], scoring: ScoringConfig, cuda: bool) -> Iterable[Lane]:
    if any(config.kind in FUNCTIONS for config in rewards.values()):
        yield FunctionPool(rewards, scoring.processes, scoring.process_memory_bytes, scoring.start_seconds)
    for name, config in rewards.items():
        try:
            if isinstance(config, CodeConfig):
                from tatara.rl.rewards.unit_tests import UnitTests

                yield ThreadLane(name, UnitTests(config), scoring.parallel)
            elif isinstance(config, JudgeConfig):
                judge = Judge(config)
                yield ThreadLane(name, judge, config.concurrency, judge.close)
            elif isinstance(config, RewardModelConfig):
                from tatara.rl.rewards.reward_model import RewardModel

                model = RewardModel(config, cuda=cuda)
                yield BatchLane(name, model.start, _REWARD_MODEL_BATCH, model.close)
        except (ConfigError, MissingExtraError) as error:
            raise type(error)(f"reward {name}: {error}") from error


def _merged(promises: Iterable["Future[Results]"]) -> Results:
    merged: Results = {}
    for promise in promises:
        merged.update(promise.result())
    return merged
