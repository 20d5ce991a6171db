"""The driver of a ``grpo`` run: checks everything first, starts buffer, workers and learner, and makes the artifact."""

import contextlib
import hashlib
import json
import uuid
from collections.abc import Callable, Iterator
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
from tatara.rl.placement import Placement, engine_places, place
from tatara.rl.preparing import Prepared, prepare
from tatara.rl.task import LearnerTask
from tatara.rl.user_code import keep
from tatara.stage import StageRun
from tatara.train import ray_training
from tatara.train.checkpoint import directories
from tatara.train.checkpoint.directories import Checkpoint
from tatara.train.checkpoint.places import Place
from tatara.train.payload import write_payload

BUFFER = "buffer"
"""Directory of the buffer's journal, in the work directory."""
MEASURED = "simulation.json"
"""Figures of the run, which ``tatara simulate --run`` reads."""
LEARNED = "learned.json"
"""What `_learn` returned, in the work directory: a driver that died after it has nothing left to learn."""
CODE = "code"
"""Copies of the user's own files, in the work directory."""
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
    config = keep(config, stage_run.work / CODE)
    check_rewards(config.rewards, config.scoring)
    datasets = {name: item for name, item in stage_run.inputs.items() if item.kind == "conversations"}
    prepared = prepare(config, spec, start / "tokenizer", datasets, stage_run.work)
    tokenizer = hashlib.sha256((start / "tokenizer" / "tokenizer.json").read_bytes()).hexdigest()
    name = f"{BUFFER}-{uuid.uuid4().hex[:12]}"
    task = LearnerTask(
        config.dump(), spec.dump(), {}, checkpoint.url, tokenizer, str(stage_run.work), name, prepared.probe_ids
    )
    final, learned = _newest(task, stage_run), stage_run.work / LEARNED
    # After the last checkpoint there is still its evaluation, and the lineage of the batches before it.
    if final is None or final.step < config.steps or not learned.is_file():
        figures = _learn(config, stage_run, task, prepared, final)
        new = learned.with_suffix(".new")
        new.write_text(json.dumps(figures), encoding="utf-8")
        new.rename(learned)
        final = _newest(task, stage_run)
    if final is None or final.step < config.steps:
        raise TrainingError(f"learning ended, but {task.checkpoints} holds no whole checkpoint of step {config.steps}")
    write_payload(stage_run.output.path, final, spec, start / "tokenizer")
    _keep_lineage(stage_run)
    figures = json.loads(learned.read_text(encoding="utf-8"))
    return {"steps": final.step, "batches": config.batches, "parameters": spec.parameter_count(), **figures}


def _learn(
    config: GrpoConfig, stage_run: StageRun, task: LearnerTask, prepared: Prepared, found: Checkpoint | None
) -> dict[str, Any]:
    """Run everything there is to run; returns the figures."""
    placed = _resources(config)
    if placed.learner_gpus is not None:
        config = config.model_copy(update={"gpus_per_worker": placed.learner_gpus})
    model = _initial_policy(stage_run)
    ensure_fits(placed.all(), "grpo (engines, reward workers and learner)", log=stage_run.log)
    first = (found.step if found else 0) // config.minibatches
    with engine_places(placed) as places, _buffer(task, prepared, stage_run.work / BUFFER, first) as client:
        roles = _roles(config, task, model, placed, places)
        crew = Crew(roles, client, config.max_worker_failures, stage_run.log, config.worker_timeout)
        stage_run.log(
            f"{config.batches} rollout batches, staleness {config.staleness}, {crew.describe()}, "
            f"{config.num_workers} learner rank{'s' if config.num_workers > 1 else ''}"
        )
        with crew:
            follower = GrpoFollower(stage_run, config, client, crew, gpus=placed.cuda)
            ray_training.train(config, stage_run, task, follower, learner.train)
            # Before the buffer sends them away: what they say now covers the whole run.
            crew.last_words()
            follower.ask()
            client.checkpointed(config.batches)
            client.stop()
        follower.report()
    figures = follower.figures()
    (stage_run.work / "evaluations.json").write_text(json.dumps(follower.evaluations, indent=1) + "\n")
    measured = follower.measured()
    if measured is not None:
        (stage_run.work / MEASURED).write_text(json.dumps(measured.dump(), indent=1) + "\n")
    if follower.evaluations:
        last = follower.evaluations[max(follower.evaluations)]
        figures |= {name: round(value, 5) for name, value in last.items() if name.startswith("pass@")}
    if follower.batches:
        figures["reward"] = round(follower.batches[-1]["reward"], 5)
    return {**figures, "worker_deaths": crew.failures, "restarts": max(0, follower.starts - 1)}


def _resources(config: GrpoConfig) -> Placement:
    import ray

    return place(config, ray.cluster_resources().get("GPU", 0.0))


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


def _roles(
    config: GrpoConfig,
    task: LearnerTask,
    model: Path,
    placed: Placement,
    places: Callable[[int], dict[str, Any]],
) -> tuple[Role, ...]:
    from tatara.rl.reward_worker import start_reward_worker
    from tatara.rl.rollout_worker import RolloutTask, start_rollout_worker

    settings = config.rollout
    environments = config.dump()["environments"]

    def rollout(name: str) -> Any:
        told = RolloutTask(
            name=name,
            buffer=task.buffer,
            model=str(model),
            engine=placed.settings,
            concurrent=settings.concurrent,
            in_flight=settings.in_flight,
            environments=environments,
            sync_seconds=config.sync.timeout,
            patience=config.sync.timeout,
            sleep=placed.sleep,
            cuda=placed.cuda,
        )
        gpus = placed.engine.get("GPU", 0.0)
        # Whoever takes a worker's post takes its place: `rollout-3.2` is the second on post 3.
        number = int(name.removeprefix("rollout-").partition(".")[0])
        return start_rollout_worker(told, num_cpus=settings.cpus, num_gpus=gpus, options=places(number))

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
    """Which prompts each batch was made of, what held-out prompts said, and what simulations need, with the result."""
    from tatara.rl.ledger.book import LINEAGE

    target = stage_run.output.path / "rl"
    target.mkdir(exist_ok=True)
    for source in (stage_run.work / BUFFER / LINEAGE, stage_run.work / "evaluations.json", stage_run.work / MEASURED):
        if source.is_file():
            (target / source.name).write_bytes(source.read_bytes())
