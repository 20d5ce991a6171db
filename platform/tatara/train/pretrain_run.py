"""The driver of a pretraining run: checks everything first, runs Ray Train, follows it, and makes the artifact."""

import contextlib
import json
import math
import os
import shutil
import signal
import statistics
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tatara.cluster import ensure_fits
from tatara.errors import TrainingError
from tatara.interrupts import STOP_SIGNALS
from tatara.model.spec import ModelSpec
from tatara.stage import StageRun
from tatara.train.checkpoint import directories as checkpoint
from tatara.train.checkpoint.directories import Checkpoint
from tatara.train.feed.batches import PackedTokens, read_tokens_json
from tatara.train.pretrain import PretrainConfig, check_layout
from tatara.train.pretrain_worker import CHECKPOINTS, WorkerTask, read_losses
from tatara.train.watch.follower import Follower

_LOSS_WINDOW = 20
# How Ray Train watches its workers, unless the user says otherwise: a dead one is noticed within a second, and a
# machine that is busy gets time to import torch.
_RAY_TRAIN_SETTINGS = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "300",
}


def run(config: PretrainConfig, stage_run: StageRun) -> dict[str, Any]:
    """Train a model; see `tatara.train.pretrain.STAGE`.

    Returns:
        Figures of the run: losses in nats, tokens per second, seconds to the first step, checkpoint blocking time.

    Raises:
        LayoutError: The layout does not fit the model, the batch or the workers.
        DataError: The tokens are damaged.
        TrainingError: The loss became not a number, or workers failed more often than allowed.
    """
    tokens_artifact = stage_run.inputs["tokens"]
    tokens = tokens_artifact.local()
    described = read_tokens_json(tokens)
    sequence_length = int(described["sequence_length"])
    spec = config.model.resolve(int(described["vocab_size"]), sequence_length)
    layout = check_layout(config, spec, sequence_length)
    train = PackedTokens(tokens, "train", sequence_length)
    if config.validation_sequences:
        PackedTokens(tokens, "validation", sequence_length)
    stage_run.log(
        f"{spec.parameter_count():,} parameters, {config.steps} steps of {config.global_batch_size} sequences of "
        f"{sequence_length} tokens ({config.steps * config.global_batch_size / train.num_bins:.2f} epochs), "
        f"{config.num_workers} workers: tp {layout.tp}, pp {layout.pp}, cp {layout.cp}, dp {layout.dp}"
    )
    follower = Follower(stage_run, config)
    checkpoints = stage_run.work / CHECKPOINTS
    final = checkpoint.newest(checkpoints, stage_run.log)
    if final is None or final.step < config.steps:
        gpus = _gpus_per_worker(config)
        task = WorkerTask(config.dump(), spec.dump(), tokens_artifact.url, sequence_length, str(stage_run.work))
        _train(config, stage_run, task, gpus, follower)
        final = checkpoint.newest(checkpoints, stage_run.log)
    if final is None or final.step < config.steps:
        raise TrainingError(f"training ended, but {checkpoints} holds no whole checkpoint of step {config.steps}")
    _write_payload(stage_run.output.path, final, spec, tokens)
    return _summary(spec, follower, final)


def _train(
    config: PretrainConfig, stage_run: StageRun, task: WorkerTask, gpus_per_worker: float, follower: Follower
) -> None:
    resources = {"CPU": config.cpus_per_worker} | ({"GPU": gpus_per_worker} if gpus_per_worker else {})
    workers = f"{config.num_workers} worker" + ("s" if config.num_workers > 1 else "")
    ensure_fits([resources] * config.num_workers, f"pretrain ({workers})", log=stage_run.log)
    started = time.time()
    try:
        with _environment(_RAY_TRAIN_SETTINGS), follower.following(), _signals_held() as when_stopped:
            _trainer(config, stage_run.work, task, resources, when_stopped).fit()
    except Exception as error:
        from tatara.train.failures import as_training_error

        raise as_training_error(error, max(0, follower.starts - 1)) from error
    if follower.first_step_time is not None:
        follower.first_step_time -= started


def _trainer(
    config: PretrainConfig,
    work: Path,
    task: WorkerTask,
    resources: dict[str, float],
    when_stopped: Callable[[Callable[[], None]], None],
) -> Any:
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    from tatara.train.failures import StopOnOwnErrors
    from tatara.train.pretrain_worker import train

    class Trainer(TorchTrainer):
        def _register_sigint_handler(self, controller: Any) -> None:
            """Stop in our way: Ray's handler would stay after the run, and only knows SIGINT."""
            when_stopped(lambda: ray.kill(controller))

    on_gpu = "GPU" in resources
    storage = work / "ray-train"
    shutil.rmtree(storage, ignore_errors=True)
    return Trainer(
        train,
        train_loop_config=vars(task),
        torch_config=TorchConfig(backend="nccl" if on_gpu else "gloo"),
        scaling_config=ScalingConfig(num_workers=config.num_workers, use_gpu=on_gpu, resources_per_worker=resources),
        run_config=RunConfig(
            # A new name each time: Ray Train would otherwise look for a state of its own to continue.
            name=f"pretrain-{uuid.uuid4().hex[:8]}",
            storage_path=str(storage),
            failure_config=FailureConfig(max_failures=config.max_failures),
            callbacks=[StopOnOwnErrors()],
            # A worker that reserved no GPU must not find one.
            worker_runtime_env=None if on_gpu else {"env_vars": {"CUDA_VISIBLE_DEVICES": ""}},
        ),
    )


@contextlib.contextmanager
def _signals_held() -> Iterator[Callable[[Callable[[], None]], None]]:
    """Let a stop signal end what the block waits for, and only then do what the signal does elsewhere.

    Ray loses an exception that a signal handler raises while the main thread waits inside of Ray.

    Yields:
        Takes the function that ends the wait; before it is called, signals do what they did.
    """
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    received: list[int] = []

    def hold(stop: Callable[[], None]) -> None:
        def handle(number: int, _: Any) -> None:
            received.append(number)
            stop()

        for number in STOP_SIGNALS:
            signal.signal(number, handle)

    try:
        yield hold
    finally:
        for number, handler in before.items():
            if signal.getsignal(number) is not handler:
                signal.signal(number, handler)
        if received:
            signal.raise_signal(received[0])


@contextlib.contextmanager
def _environment(defaults: dict[str, str]) -> Iterator[None]:
    added = [name for name in defaults if name not in os.environ]
    os.environ.update({name: defaults[name] for name in added})
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


def _gpus_per_worker(config: PretrainConfig) -> float:
    import ray

    if config.gpus_per_worker is not None:
        return config.gpus_per_worker
    return 1.0 if ray.cluster_resources().get("GPU", 0) >= 1 else 0.0


def _write_payload(output: Path, final: Checkpoint, spec: ModelSpec, tokens: Path) -> None:
    for name in ("model", "training.json", "losses.jsonl"):
        source, target = final.path / name, output / name
        if source.is_dir():
            shutil.copytree(source, target, copy_function=_link_or_copy)
        else:
            _link_or_copy(source, target)
    shutil.copytree(tokens / "tokenizer", output / "tokenizer")
    (output / "model.json").write_text(json.dumps(spec.dump(), indent=1) + "\n", encoding="utf-8")


def _link_or_copy(source: str | Path, target: str | Path) -> None:
    """Checkpoints are large and the working copy is deleted soon: share the bytes where the file system can."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _summary(spec: ModelSpec, follower: Follower, final: Checkpoint) -> dict[str, Any]:
    records = list(read_losses(final.path / "losses.jsonl"))
    losses = [record["loss"] for record in records if "loss" in record]
    validations = [record["validation_loss"] for record in records if "validation_loss" in record]
    loss = statistics.fmean(losses[-_LOSS_WINDOW:])
    entropy = math.log(spec.vocab_size)
    summary = {
        "steps": final.step,
        "parameters": spec.parameter_count(),
        "tokens": final.manifest["tokens"],
        "loss": round(loss, 5),
        "log_vocabulary": round(entropy, 5),
        "loss_drop": round(entropy - loss, 5),
        "restarts": max(0, follower.starts - 1),
    }
    if validations:
        summary["validation_loss"] = validations[-1]
    if follower.speeds:
        summary["tokens_per_second"] = round(statistics.median(follower.speeds), 1)
    if follower.first_step_time is not None:
        summary["seconds_to_first_step"] = round(follower.first_step_time, 2)
    if follower.blocked:
        summary["checkpoint_blocked_seconds"] = round(statistics.median(follower.blocked), 3)
    return summary
