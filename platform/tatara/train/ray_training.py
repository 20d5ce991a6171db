"""Runs the ranks of a training run under Ray Train: as many restarts as allowed, and a stop that leaves nothing."""

import contextlib
import os
import shutil
import signal
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

from tatara.cluster import ensure_fits
from tatara.interrupts import STOP_SIGNALS
from tatara.stage import StageRun
from tatara.train.settings import TrainingSettings
from tatara.train.task import WorkerTask
from tatara.train.watch.follower import Follower

# How Ray Train watches its workers, unless the user says otherwise: a dead one is noticed within a second, and a
# machine that is busy gets time to import torch.
_RAY_TRAIN_SETTINGS = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "300",
}


def train(
    config: TrainingSettings,
    stage_run: StageRun,
    task: WorkerTask,
    follower: Follower,
    worker: Callable[[dict[str, Any]], None],
) -> None:
    """Run all ranks to the end of the run.

    Args:
        config: Ranks, their resources, and how often they may fail.
        stage_run: Of the stage.
        task: What every rank is told, as a dictionary.
        follower: Reads the events that the ranks write.
        worker: What a rank runs.

    Raises:
        ClusterError: The cluster can never hold them.
        TrainingError: They failed more often than allowed, or in a way that no restart mends.
    """
    gpus_per_worker = _gpus_per_worker(config)
    resources = {"CPU": config.cpus_per_worker} | ({"GPU": gpus_per_worker} if gpus_per_worker else {})
    workers = f"{config.num_workers} worker" + ("s" if config.num_workers > 1 else "")
    ensure_fits([resources] * config.num_workers, f"{stage_run.stage.name} ({workers})", log=stage_run.log)
    started = time.time()
    received: list[int] = []
    try:
        with _environment(_RAY_TRAIN_SETTINGS), follower.following(), _signals_held(received) as when_stopped:
            _trainer(config, stage_run, task, resources, worker, when_stopped).fit()
    except Exception as error:
        if received:
            # What the signal's own handler raised was lost on the way.
            raise KeyboardInterrupt from error
        from tatara.train.failures import as_training_error

        raise as_training_error(error, max(0, follower.starts - 1)) from error
    if follower.first_step_time is not None:
        follower.first_step_time -= started


def _trainer(
    config: TrainingSettings,
    stage_run: StageRun,
    task: WorkerTask,
    resources: dict[str, float],
    worker: Callable[[dict[str, Any]], None],
    when_stopped: Callable[[Callable[[], None]], None],
) -> Any:
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    from tatara.train.failures import StopOnOwnErrors

    class Trainer(TorchTrainer):
        def _register_sigint_handler(self, controller: Any) -> None:
            """Stop in our way: Ray's handler would stay after the run, and only knows SIGINT."""
            when_stopped(lambda: ray.kill(controller))

    on_gpu = "GPU" in resources
    storage = stage_run.work / "ray-train"
    shutil.rmtree(storage, ignore_errors=True)
    return Trainer(
        worker,
        train_loop_config=vars(task),
        torch_config=TorchConfig(backend="nccl" if on_gpu else "gloo"),
        scaling_config=ScalingConfig(num_workers=config.num_workers, use_gpu=on_gpu, resources_per_worker=resources),
        run_config=RunConfig(
            # A new name each time: Ray Train would otherwise look for a state of its own to continue.
            name=f"{stage_run.stage.name}-{uuid.uuid4().hex[:8]}",
            storage_path=str(storage),
            failure_config=FailureConfig(max_failures=config.max_failures),
            callbacks=[StopOnOwnErrors()],
            # A worker that reserved no GPU must not find one.
            worker_runtime_env=None if on_gpu else {"env_vars": {"CUDA_VISIBLE_DEVICES": ""}},
        ),
    )


@contextlib.contextmanager
def _signals_held(received: list[int]) -> Iterator[Callable[[Callable[[], None]], None]]:
    """Let a stop signal end what the block waits for, and only then do what the signal does elsewhere.

    Ray loses an exception that a signal handler raises while the main thread waits inside of Ray.

    Args:
        received: Gets the numbers of the signals that come.

    Yields:
        Takes the function that ends the wait; before it is called, signals do what they did.
    """
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}

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
            # Still here: Python loses what a handler raises while a finaliser runs.
            if callable(before[signal.Signals(received[0])]):
                raise KeyboardInterrupt


@contextlib.contextmanager
def _environment(defaults: dict[str, str]) -> Iterator[None]:
    added = [name for name in defaults if name not in os.environ]
    os.environ.update({name: defaults[name] for name in added})
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


def _gpus_per_worker(config: TrainingSettings) -> float:
    import ray

    if config.gpus_per_worker is not None:
        return config.gpus_per_worker
    return 1.0 if ray.cluster_resources().get("GPU", 0) >= 1 else 0.0
