"""The ``grpo`` stage: reinforcement learning from rewards, and its configuration."""

from typing import Literal

from pydantic import Field, model_validator

from tatara.config import Config, operational
from tatara.engine.config import EngineConfig
from tatara.rl.algorithm import AlgorithmConfig
from tatara.rl.curriculum import CurriculumStage, HeldOut, Passing, batch_sizes
from tatara.rl.environments.config import Environments
from tatara.rl.rewards.config import Rewards, ScoringConfig
from tatara.stage import Stage
from tatara.train.optimizer import AdamSettings
from tatara.train.schedule import Schedule
from tatara.train.settings import TrainingSettings

PROMPTS = "prompts"
"""Name of the dataset that is always there."""


class RolloutSettings(Config):
    """The engines that generate."""

    engines: int = operational(1, ge=1)
    """Rollout workers, one engine each."""
    engine: EngineConfig = operational(EngineConfig())
    """Settings of each."""
    concurrent: int = operational(64, ge=1)
    """Rollouts that an engine works on at a time."""
    in_flight: Literal["continue", "recompute", "drain"] = "continue"
    """What becomes of unfinished rollouts when new weights come: they go on with the keys and values they have, with
    all of them computed again, or they are finished first."""
    cpus: float = operational(0.5, ge=0)
    """Logical CPUs that a rollout worker reserves."""
    gpus: float | None = operational(None, ge=0)
    """GPUs that a rollout worker reserves; null means as many as its engine is sharded over where the cluster has GPUs,
    else none. With a fraction, engines and learner share GPUs."""
    sleep: bool = operational(False)
    """Free the engine's memory while it has nothing to generate; for engines that share GPUs with the learner."""
    colocate: bool = operational(False)
    """Put one engine and one rank of the learner on each GPU; an engine sleeps while there is nothing to generate.
    Needs ``staleness`` 0, and as many engines as ranks. vLLM gets 0.4 of the memory, unless ``vllm_args`` says
    otherwise."""
    strategy: Literal["PACK", "SPREAD"] = operational("PACK")
    """Whether engines lie on as few machines as possible, or on as many."""


class SyncSettings(Config):
    """How new weights reach the engines."""

    transport: Literal["auto", "objects", "broadcast"] = operational("auto")
    """How they travel: through Ray's object store, or by a broadcast from the learner's first rank to all engines, NCCL
    between GPUs and gloo between CPUs. "auto" is a broadcast where learner and engines have GPUs of their own. Engines
    that share GPUs or are sharded over several (``tensor_parallel_size``) always get objects, as do workers that join
    late."""
    timeout: float = operational(300.0, gt=0)
    """Time within which each step of a synchronisation must be done, in seconds; a broadcast that takes longer is given
    up for objects."""
    bucket_bytes: int = operational(256 << 20, ge=1 << 10)
    """Weights are sent in pieces of about this size, in bytes."""
    probes: int = Field(4, ge=1)
    """Sequences whose log-probabilities trainer and engines compare after each synchronisation."""
    probe_tokens: int = Field(32, ge=2)
    """Tokens of each of them at most."""
    tolerance: float | None = Field(None, gt=0)
    """Largest difference allowed, in nats; null is 1e-4 for float32 and 0.5 for bfloat16."""


class EvaluationSettings(Config):
    """How the policy is measured on held-out prompts while it learns."""

    interval: int = Field(20, ge=0)
    """Rollout batches between evaluations; the last version is always evaluated; 0 turns evaluations off."""
    prompts: int = Field(64, ge=1)
    """Held-out prompts at most."""
    sampling: HeldOut = HeldOut(max_response_tokens=256, temperature=0.0)
    """How they are answered."""


class GrpoConfig(TrainingSettings):
    """Reinforcement learning with group-relative advantages: rollouts, rewards, and the trainer that learns from them.

    A model that can chat (``checkpoint``) answers each prompt several times; rewards score the answers, and those
    better than the rest of their group become more likely. Prompts are conversations (see ``tatara dialogues``): what
    comes before the last answer is asked, the answer is metadata. The input ``prompts`` is one dataset, further inputs
    are more; the curriculum calls them by their input names. ``stages``, ``rewards`` and ``environments`` are mappings
    that belong in a job file.
    """

    steps: int = Field(default=100, ge=1)
    """Optimizer steps; rollout batches times ``minibatches``."""
    stages: tuple[CurriculumStage, ...] = (
        CurriculumStage(
            name="main", prompts={PROMPTS: 1.0}, groups_per_batch=16, group_size=8, max_response_tokens=256
        ),
    )
    """The curriculum, a list of stages that follow each other: name, until_batch (all but the last), prompts (weight
    of each dataset by its input's name), groups_per_batch (prompts in a rollout batch), group_size (rollouts of a
    prompt), max_response_tokens, temperature, environment, difficulty, replay, ..."""
    algorithm: AlgorithmConfig = AlgorithmConfig()
    """How rewards become a loss."""
    rewards: Rewards
    """What is rewarded: name to kind, weight and settings, such as {correct: {kind: math}}. Kinds: math, exact, regex,
    json, format, length, code, python (your function), reward_model, judge."""
    scoring: ScoringConfig = ScoringConfig()
    """How rewards are computed."""
    environments: Environments = Field(default_factory=dict)
    """Tools that the model may use in several turns: name to kind and settings; a stage says which it uses. Kinds:
    calculator, python, tools (both), custom (your class)."""
    passing: Passing = Passing()
    """When a rollout counts as solved."""
    staleness: int = Field(1, ge=0)
    """Rollout batches that the policy may have learned from between a rollout's first token and its use; 0 generates
    and trains by turns."""
    minibatches: int = Field(1, ge=1)
    """Optimizer steps on each rollout batch."""
    sequence_length: int = Field(1024, ge=8)
    """Tokens of the rows that rollouts are packed into; the longest prompt and response must fit into one."""
    optimizer: AdamSettings = AdamSettings(learning_rate=1e-5, weight_decay=0.0)
    """Adam and the learning rate."""
    schedule: Schedule = Schedule(shape="constant", warmup_steps=0)
    """The learning rate over the run."""
    evaluation: EvaluationSettings = EvaluationSettings()
    """Measuring on held-out prompts."""
    rollout: RolloutSettings = RolloutSettings()
    """The engines that generate."""
    sync: SyncSettings = SyncSettings()
    """How new weights reach them."""
    num_workers: int = operational(1, ge=1)
    """Ranks of the learner, one process each."""
    reward_workers: int = operational(1, ge=1)
    """Processes that compute rewards."""
    cpus_per_reward_worker: float = operational(0.1, ge=0)
    """Logical CPUs that each of them reserves."""
    batch_timeout: float = operational(1800.0, gt=0)
    """Longest time that the learner waits for a rollout batch, in seconds."""
    worker_timeout: float = operational(600.0, gt=0)
    """Longest time that a rollout or reward worker may be without a sign of life before another takes its place, in
    seconds; loading the model is part of it."""
    max_worker_failures: int = operational(20, ge=-1)
    """Deaths of rollout and reward workers to recover from before giving up; -1 means any number."""

    @property
    def batches(self) -> int:
        """Rollout batches of the run."""
        return self.steps // self.minibatches

    @model_validator(mode="after")
    def _check(self) -> "GrpoConfig":
        if self.steps % self.minibatches:
            raise ValueError(f"steps={self.steps} is not a multiple of minibatches={self.minibatches}")
        if self.checkpoint_interval % self.minibatches:
            raise ValueError(
                f"checkpoint_interval={self.checkpoint_interval} is not a multiple of minibatches={self.minibatches}: "
                "a checkpoint lies between two rollout batches"
            )
        batch_sizes(self.stages, self.batches)
        named = {stage.environment for stage in self.stages} | {self.evaluation.sampling.environment}
        unknown = sorted(name for name in named if name is not None and name not in self.environments)
        if unknown:
            raise ValueError(f"a stage uses the environment '{unknown[0]}', which `environments` does not describe")
        if self.rollout.colocate:
            self._check_colocated()
        if self.guard.spikes != "warn" or self.guard.nan == "rollback":
            raise ValueError("guard: rollouts cannot be rolled back or left out; use spikes=warn and nan=skip or stop")
        return self

    def _check_colocated(self) -> None:
        rollout = self.rollout
        if self.staleness:
            raise ValueError(
                f"rollout.colocate=true needs staleness=0, not {self.staleness}: engines sleep while the learner trains"
            )
        if rollout.engines != self.num_workers:
            raise ValueError(
                f"rollout.colocate=true puts an engine and a learner's rank on each GPU: rollout.engines="
                f"{rollout.engines} and num_workers={self.num_workers} must be equal"
            )
        if rollout.gpus is not None or self.gpus_per_worker is not None:
            raise ValueError("rollout.colocate=true divides the GPUs: leave out rollout.gpus and gpus_per_worker")
        if rollout.engine.vllm_args.get("tensor_parallel_size", 1) != 1:
            raise ValueError("rollout.colocate=true needs engines of one GPU: leave out tensor_parallel_size")
        if self.sync.transport == "broadcast":
            raise ValueError("rollout.colocate=true needs sync.transport=objects or auto: NCCL takes no GPU twice")


STAGE = Stage(
    name="grpo",
    kind="checkpoint",
    config=GrpoConfig,
    inputs={"checkpoint": "checkpoint", PROMPTS: "conversations"},
    more="conversations",
    run="tatara.rl.grpo_run:run",
    sources="tatara.rl.user_code:sources",
)
