"""Starts the buffer and the rollout workers of a run as actors of the connected cluster."""

from pathlib import Path
from typing import Any

from tatara.engine.environment import engine_environment
from tatara.rl.ledger.book import BufferConfig
from tatara.rl.rollout_task import RolloutTask


def start_buffer(
    name: str,
    config: BufferConfig,
    prompts: str | Path,
    directory: str | Path,
    attempt: str,
    held_out: str | Path | None = None,
    first_batch: int = 0,
) -> Any:
    """Start the buffer of a run as an actor of the connected cluster, which Ray starts again whenever it dies.

    Args:
        name: Of the actor.
        config: Of the run.
        prompts: Prepared prompts, see `tatara.rl.prompts.write_prompts`; the actor's machine must see the path.
        directory: Of the journal, the same for all attempts at a run.
        attempt: Another name at each start of the driver.
        held_out: Prepared held-out prompts.
        first_batch: Batch that the learner goes on with; counts only if the directory holds no journal.

    Returns:
        The actor's handle. Its calls may be made twice by Ray, which is harmless.
    """
    import ray

    from tatara.rl.buffer import Buffer

    options = {"name": name, "num_cpus": 0, "max_restarts": -1, "max_task_retries": -1, "max_concurrency": 1000}
    held = None if held_out is None else str(held_out)
    return (
        ray.remote(Buffer)
        .options(**options)
        .remote(config.dump(), str(prompts), str(directory), attempt, held, first_batch)
    )


def start_rollout_worker(
    task: RolloutTask, *, num_cpus: float = 0.5, num_gpus: float = 0.0, options: Any = None
) -> Any:
    """Start a rollout worker as an actor of the connected cluster.

    Ray does not start it again: whoever waits for `RolloutWorker.run` releases what it held and starts another.

    Args:
        task: What it needs to know.
        num_cpus: Logical CPUs that it reserves.
        num_gpus: GPUs that it reserves.
        options: Further options of the actor, such as a scheduling strategy.

    Returns:
        The actor's handle; call its ``run`` once.
    """
    import ray

    from tatara.rl.rollout_worker import RolloutWorker

    # Read before torch and vLLM are imported; scheduling stays in the process whatever the machine.
    variables = engine_environment(task.cuda) | {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
    given = {
        "name": task.name,
        "num_cpus": num_cpus,
        "num_gpus": num_gpus,
        "max_concurrency": 2,
        "runtime_env": {"env_vars": variables},
    }
    return ray.remote(RolloutWorker).options(**(given | (options or {}))).remote(task)
