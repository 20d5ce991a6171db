"""One Ray task for what needs Megatron on a single rank.

Megatron's process groups and, without a GPU, the CPU adapter belong to a process, so the task's is not used again. It
asks for no GPU, so it runs on any node.
"""

import contextlib
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tatara import cluster, storage
from tatara.errors import EngineError, TataraError


def in_task(
    function: Callable[..., Any],
    *args: Any,
    name: str,
    num_cpus: float,
    timeout: float,
    log: Callable[[str], None],
) -> Any:
    """Call a function in a process of the cluster, and return what it returned.

    Args:
        function: Importable there.
        args: Its arguments.
        name: What the user knows the work as.
        num_cpus: CPUs to reserve.
        timeout: Seconds.
        log: Takes a line, where there is a wait for resources.

    Raises:
        ClusterError: The cluster cannot hold the task.
        EngineError: It did not finish in time.
        TataraError: What the function raised.
    """
    import ray

    cluster.ensure_fits([{"CPU": num_cpus}], name, log=log)
    # Its node may have a GPU, which the task must not find.
    no_gpu = {"env_vars": {"CUDA_VISIBLE_DEVICES": ""}}
    task = ray.remote(num_cpus=num_cpus, max_calls=1, runtime_env=no_gpu)(function).remote(*args)
    try:
        return ray.get(task, timeout=timeout)
    except ray.exceptions.GetTimeoutError:
        ray.cancel(task, force=True)
        raise EngineError(f"the {name} did not finish within {timeout:.0f} s: raise timeout, or num_cpus") from None
    except ray.exceptions.RayTaskError as error:
        # A user's mistake is one line, also when it happened on another node.
        cause = error.cause
        raise (cause if isinstance(cause, TataraError) else error) from None


@contextlib.contextmanager
def output_below(url: str) -> Iterator[Path]:
    """A directory of this machine whose content is at a URL when the block ends; Megatron can be imported in it."""
    from tatara.train.lean_imports import import_megatron

    # Megatron warns of each fusion that it lacks without Apex and Transformer Engine.
    warnings.filterwarnings("ignore", module=r"megatron\.")
    import_megatron()
    if storage.is_local(url):
        directory = Path(url)
        directory.mkdir(parents=True, exist_ok=True)
        yield directory
        return
    with tempfile.TemporaryDirectory(prefix="tatara-output-") as scratch:
        yield Path(scratch)
        storage.upload(Path(scratch), url)
