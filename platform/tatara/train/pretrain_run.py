"""The driver of a pretraining run: checks everything first, runs Ray Train, follows it, and makes the artifact."""

import contextlib
import json
import math
import os
import shutil
import statistics
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tatara.cluster import ensure_fits
from tatara.model.spec import ModelSpec
from tatara.stage import StageRun
from tatara.train import checkpoint
from tatara.train.batches import PackedTokens, read_tokens_json
from tatara.train.checkpoint import Checkpoint
from tatara.train.events import EventReader
from tatara.train.pretrain import PretrainConfig, check_layout
from tatara.train.pretrain_worker import CHECKPOINTS, EVENTS, WorkerTask, read_losses

_POLL_SECONDS = 0.3
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
        from tatara.train.failures import TrainingError

        raise TrainingError(f"training ended, but {checkpoints} holds no whole checkpoint of step {config.steps}")
    _write_payload(stage_run.output.path, final, spec, tokens)
    return _summary(spec, follower, final)


class Follower:
    """Turns the events of the trainer into progress, metrics and log lines, and remembers what the summary needs."""

    def __init__(self, stage_run: StageRun, config: PretrainConfig) -> None:
        """Skip what an earlier run of this stage has already told."""
        self._run, self._config = stage_run, config
        self._reader = EventReader(stage_run.work / EVENTS)
        earlier = self._reader.read()
        self._told = {kind: max((e["step"] for e in earlier if e["kind"] == kind), default=0) for kind in _SERIES}
        self.speeds: list[float] = [e["tokens"] / e["seconds"] for e in earlier if e["kind"] == "step"]
        self.blocked: list[float] = [e["blocked_seconds"] for e in earlier if e["kind"] == "checkpoint"]
        self.first_step_time: float | None = None
        self.starts = 0

    def poll(self) -> None:
        """Handle the events since the last call."""
        for event in self._reader.read():
            getattr(self, f"_on_{event['kind']}")(event)

    def _on_started(self, event: dict[str, Any]) -> None:
        self._count_start()

    def _on_resumed(self, event: dict[str, Any]) -> None:
        self._count_start()
        self._run.log(f"continues from the checkpoint of step {event['step']}")

    def _on_log(self, event: dict[str, Any]) -> None:
        self._run.log(event["message"])

    def _on_step(self, event: dict[str, Any]) -> None:
        speed = event["tokens"] / event["seconds"]
        if self.first_step_time is None:
            self.first_step_time = event["time"]
        self.speeds.append(speed)
        self._run.progress(event["step"], self._config.steps, "steps", loss=event["loss"], tokens_per_second=speed)
        self._tell(
            event,
            loss=event["loss"],
            learning_rate=event["learning_rate"],
            gradient_norm=event["gradient_norm"],
            tokens_per_second=speed,
        )

    def _on_validation(self, event: dict[str, Any]) -> None:
        if self._tell(event, validation_loss=event["validation_loss"]):
            self._run.log(f"step {event['step']}: validation loss {event['validation_loss']:.4f}")

    def _on_checkpoint(self, event: dict[str, Any]) -> None:
        self.blocked.append(event["blocked_seconds"])
        self._run.log(
            f"checkpoint of step {event['step']} written in {event['seconds']:.1f} s, "
            f"{event['blocked_seconds']:.2f} s of it without training"
        )

    def _count_start(self) -> None:
        self.starts += 1
        if self.starts > 1:
            self._run.log(f"workers failed and were started again ({self.starts - 1} of {self._config.max_failures})")

    def _tell(self, event: dict[str, Any], **values: float) -> bool:
        """Record a point of a series once, though steps are repeated after a restart."""
        if event["step"] <= self._told[event["kind"]]:
            return False
        self._told[event["kind"]] = event["step"]
        self._run.metrics(event["step"], **{f"train.{name}": value for name, value in values.items()})
        return True


_SERIES = ("step", "validation")


def _train(
    config: PretrainConfig, stage_run: StageRun, task: WorkerTask, gpus_per_worker: float, follower: Follower
) -> None:
    resources = {"CPU": config.cpus_per_worker} | ({"GPU": gpus_per_worker} if gpus_per_worker else {})
    workers = f"{config.num_workers} worker" + ("s" if config.num_workers > 1 else "")
    ensure_fits([resources] * config.num_workers, f"pretrain ({workers})", log=stage_run.log)
    trainer = _trainer(config, stage_run.work, task, resources)
    started = time.time()
    failed: list[BaseException] = []

    def fit() -> None:
        try:
            trainer.fit()
        except Exception as error:
            # Handed to the main thread, which explains it.
            failed.append(error)

    with _environment(_RAY_TRAIN_SETTINGS):
        # Ray Train would take over the handling of Ctrl-C for good if it ran in the main thread.
        thread = threading.Thread(target=fit, name="ray-train", daemon=True)
        thread.start()
        while thread.is_alive():
            thread.join(_POLL_SECONDS)
            follower.poll()
        follower.poll()
    if follower.first_step_time is not None:
        follower.first_step_time -= started
    if failed:
        from tatara.train.failures import as_training_error

        raise as_training_error(failed[0], max(0, follower.starts - 1)) from failed[0]


def _trainer(config: PretrainConfig, work: Path, task: WorkerTask, resources: dict[str, float]) -> Any:
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    from tatara.train.failures import StopOnOwnErrors
    from tatara.train.pretrain_worker import train

    on_gpu = "GPU" in resources
    storage = work / "ray-train"
    shutil.rmtree(storage, ignore_errors=True)
    return TorchTrainer(
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
