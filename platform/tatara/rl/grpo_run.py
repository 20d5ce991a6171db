"""The driver of a ``grpo`` run: checks everything first, starts buffer, workers and learner, and makes the artifact."""

import contextlib
import hashlib
import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tatara.cluster import ensure_fits
from tatara.errors import TrainingError
from tatara.model.spec import ModelSpec
from tatara.rl import learner
from tatara.rl.client import BufferClient
from tatara.rl.crew import Crew, Role
from tatara.rl.following import GrpoFollower
from tatara.rl.grpo import GrpoConfig
from tatara.rl.preparing import Prepared, prepare
from tatara.rl.task import LearnerTask
from tatara.stage import StageRun
from tatara.train import ray_training
from tatara.train.checkpoint import directories
from tatara.train.checkpoint.directories import Checkpoint
from tatara.train.checkpoint.places import Place
from tatara.train.payload import write_payload

BUFFER = "buffer"
"""Directory of the buffer's journal, in the work directory."""
POLICY = "policy"
"""The initial policy in the Hugging Face layout, for the engines to start from."""


def run(config: GrpoConfig, stage_run: StageRun) -> dict[str, Any]:
    """Learn from rewards; see `tatara.rl.grpo.STAGE`.

    Returns:
        Figures of the run: held-out scores, rewards, tokens per second of both sides, idle share.

    Raises:
        ConfigError: The curriculum, the rewards and the model do not fit each other.
        ArtifactError: The checkpoint is damaged, or its chat template is not the prompts'.
        DataError: A prompt is too long, or there is none.
        EngineError: An engine does not start, or computes other log-probabilities than the trainer.
        TrainingError: Rewards fail too often, or workers died more often than allowed.
    """
    from tatara.rl.rewards.scorer import check_rewards

    checkpoint = stage_run.inputs["checkpoint"]
    start = checkpoint.local()
    directories.opened(start)
    spec = ModelSpec.model_validate_json((start / "model.json").read_text(encoding="utf-8"))
    config.layout.check_model(spec)
    config.layout.resolve(config.num_workers)
    check_rewards(config.rewards, config.scoring)
    datasets = {name: item for name, item in stage_run.inputs.items() if item.kind == "conversations"}
    prepared = prepare(config, spec, start / "tokenizer", datasets, stage_run.work)
    tokenizer = hashlib.sha256((start / "tokenizer" / "tokenizer.json").read_bytes()).hexdigest()
    name = f"{BUFFER}-{uuid.uuid4().hex[:12]}"
    task = LearnerTask(
        config.dump(), spec.dump(), {}, checkpoint.url, tokenizer, str(stage_run.work), name, prepared.probe_ids
    )
    final = _newest(task, stage_run)
    figures: dict[str, Any] = {}
    if final is None or final.step < config.steps:
        figures = _learn(config, stage_run, task, prepared, final)
        final = _newest(task, stage_run)
    if final is None or final.step < config.steps:
        raise TrainingError(f"learning ended, but {task.checkpoints} holds no whole checkpoint of step {config.steps}")
    write_payload(stage_run.output.path, final, spec, start / "tokenizer")
    _keep_lineage(stage_run)
    return {"steps": final.step, "batches": config.batches, "parameters": spec.parameter_count(), **figures}


def _learn(
    config: GrpoConfig, stage_run: StageRun, task: LearnerTask, prepared: Prepared, found: Checkpoint | None
) -> dict[str, Any]:
    """Run everything there is to run; returns the figures."""
    placed = _resources(config)
    model = _initial_policy(stage_run)
    ensure_fits(placed.all(config), "grpo (engines, reward workers and learner)", log=stage_run.log)
    with _buffer(task, prepared, stage_run.work / BUFFER, (found.step if found else 0) // config.minibatches) as client:
        crew = Crew(_roles(config, task, model, placed), client, config.max_worker_failures, stage_run.log)
        stage_run.log(
            f"{config.batches} rollout batches, staleness {config.staleness}, {crew.describe()}, "
            f"{config.num_workers} learner rank{'s' if config.num_workers > 1 else ''}"
        )
        with crew:
            follower = GrpoFollower(stage_run, config, client, crew, gpus=placed.cuda)
            ray_training.train(config, stage_run, task, follower, learner.train)
            follower.ask()
            client.checkpointed(config.batches)
            client.stop()
        follower.report()
    figures = follower.figures()
    (stage_run.work / "evaluations.json").write_text(json.dumps(follower.evaluations, indent=1) + "\n")
    if follower.evaluations:
        last = follower.evaluations[max(follower.evaluations)]
        figures |= {name: round(value, 5) for name, value in last.items() if name.startswith("pass@")}
    if follower.batches:
        figures["reward"] = round(follower.batches[-1]["reward"], 5)
    return {**figures, "worker_deaths": crew.failures, "restarts": max(0, follower.starts - 1)}


@dataclass(frozen=True)
class _Resources:
    """What Ray reserves."""

    engine: dict[str, float]
    reward: dict[str, float]
    cuda: bool

    def all(self, config: GrpoConfig) -> list[dict[str, float]]:
        """The bundles of all workers beside the learner."""
        return [self.engine] * config.rollout.engines + [self.reward] * config.reward_workers


def _resources(config: GrpoConfig) -> _Resources:
    import ray

    there = ray.cluster_resources().get("GPU", 0) > 0
    gpus = config.rollout.gpus
    if gpus is None:
        gpus = float(config.rollout.engine.vllm_args.get("tensor_parallel_size", 1)) if there else 0.0
    engine = {"CPU": config.rollout.cpus} | ({"GPU": gpus} if gpus else {})
    return _Resources(engine, {"CPU": config.cpus_per_reward_worker}, gpus > 0)


def _initial_policy(stage_run: StageRun) -> Path:
    """The checkpoint as engines read it; made once for a run, however often it is continued."""
    from tatara.train.convert.export import ExportConfig
    from tatara.train.convert.export_run import export_artifact
    from tatara.train.convert.task import in_task

    directory = stage_run.work / POLICY
    if not (directory / "proof.json").is_file():
        # Every synchronisation proves what the engines compute; the files need no proof of their own.
        config = ExportConfig(proof_tokens=0)
        in_task(
            export_artifact,
            *(config, stage_run.inputs["checkpoint"], str(directory)),
            name="export of the initial policy",
            num_cpus=config.num_cpus,
            timeout=config.timeout,
            log=stage_run.log,
        )
    return directory


@contextlib.contextmanager
def _buffer(task: LearnerTask, prepared: Prepared, directory: Path, first_batch: int) -> Iterator[BufferClient]:
    import ray

    from tatara.rl.buffer import start_buffer

    directory.mkdir(parents=True, exist_ok=True)
    handle = start_buffer(
        task.buffer, prepared.buffer, prepared.prompts, directory, task.buffer, prepared.held_out, first_batch
    )
    client = BufferClient(task.buffer, GrpoConfig.model_validate(task.config).sync.timeout)
    try:
        # What is wrong with the journal or the prompts shows before anything else is started.
        client.status()
        yield client
    finally:
        ray.kill(handle)


def _roles(config: GrpoConfig, task: LearnerTask, model: Path, placed: _Resources) -> tuple[Role, ...]:
    from tatara.rl.reward_worker import start_reward_worker
    from tatara.rl.rollout_worker import RolloutTask, start_rollout_worker

    settings = config.rollout
    environments = config.dump()["environments"]

    def rollout(name: str) -> Any:
        told = RolloutTask(
            name=name,
            buffer=task.buffer,
            model=str(model),
            engine=settings.engine.dump(),
            concurrent=settings.concurrent,
            in_flight=settings.in_flight,
            environments=environments,
            sync_seconds=config.sync.timeout,
            patience=config.sync.timeout,
            sleep=settings.sleep,
            cuda=placed.cuda,
        )
        return start_rollout_worker(told, num_cpus=settings.cpus, num_gpus=placed.engine.get("GPU", 0.0))

    def reward(name: str) -> Any:
        import ray

        handle = ray.get_actor(task.buffer)
        return start_reward_worker(
            name, handle, config.rewards, config.scoring, model, num_cpus=config.cpus_per_reward_worker
        )

    return Role("rollout", settings.engines, rollout, spans=True), Role("reward", config.reward_workers, reward)


def _newest(task: LearnerTask, stage_run: StageRun) -> Checkpoint | None:
    return next(iter(Place(task.checkpoints).candidates(stage_run.log)), None)


def _keep_lineage(stage_run: StageRun) -> None:
    """Which prompts each batch was made of, and what held-out prompts said, with the result."""
    from tatara.rl.ledger.book import LINEAGE

    target = stage_run.output.path / "rl"
    target.mkdir(exist_ok=True)
    for source in (stage_run.work / BUFFER / LINEAGE, stage_run.work / "evaluations.json"):
        if source.is_file():
            (target / source.name).write_bytes(source.read_bytes())
