"""Run a function over shards or records on Ray, results as they come: with Ray Data, or as plain tasks where few."""

import logging
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from tatara.errors import TataraError

Result = TypeVar("Result")
RAY_DATA_FROM = 65
"""Fewer shards than this are plain Ray tasks. An execution of Ray Data costs about 5 CPU-seconds and 2 seconds before
its first task (imports in every process, actors of its own); that pays once there is much to schedule."""
_IN_FLIGHT = 4


def map_shards(function: Callable[[dict[str, Any]], Result], items: Sequence[Mapping[str, Any]]) -> Iterator[Result]:
    """Yield ``function(item)`` for each item, in the order of completion.

    For passes over documents. Ray Data decides how many shards are under way, within the resources that there are; a
    corpus of few shards goes without it.

    Args:
        function: Runs in a Ray task of one CPU; writes its shard's files itself and returns a small record.
        items: One record per shard; a record holds literals and bytes.

    Raises:
        TataraError: What a task raised on purpose, as it was raised.
    """
    if len(items) < RAY_DATA_FROM:
        yield from _tasks(function, items)
        return
    import ray.data
    from ray.util.debug import log_once

    guarded = _guarded(function)
    # The stage shows its own progress. Ray Data's plans and bars would bury it, and so would its warning that they
    # are off; other warnings, of resources that are not there for example, stay.
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    log_once("ray_data_progress_manager_disabled")
    ray.data.DataContext.get_current().enable_progress_bars = False
    dataset = ray.data.from_items([dict(item) for item in items], override_num_blocks=len(items))
    for row in dataset.map(lambda item: {"result": guarded(item)}).iter_rows():
        yield _opened(row["result"])


def map_tasks(function: Callable[[dict[str, Any]], Result], items: Sequence[Mapping[str, Any]]) -> Iterator[Result]:
    """Yield ``function(item)`` for each item, in the order of completion, as plain Ray tasks of one CPU.

    For the many small jobs between passes. What is one job alone is done right here.

    Raises:
        TataraError: What a task raised on purpose, as it was raised.
    """
    if len(items) == 1:
        yield function(dict(items[0]))
    else:
        yield from _tasks(function, items)


def _tasks(function: Callable[[dict[str, Any]], Result], items: Sequence[Mapping[str, Any]]) -> Iterator[Result]:
    if not items:
        return
    import ray

    # A worker or node that dies costs another try; five deaths in a row are no accident.
    task = ray.remote(num_cpus=1, max_retries=5)(_guarded(function)).options(name="shard")
    # Enough to keep every CPU busy; more would only hold records in the object store.
    window = max(8, _IN_FLIGHT * int(ray.cluster_resources().get("CPU", 1)))
    waiting: list[Any] = []
    for item in items:
        waiting.append(task.remote(dict(item)))
        if len(waiting) >= window:
            [done], waiting = ray.wait(waiting, num_returns=1)
            yield _opened(ray.get(done))
    while waiting:
        [done], waiting = ray.wait(waiting, num_returns=1)
        yield _opened(ray.get(done))


def _guarded(function: Callable[[dict[str, Any]], Any]) -> Callable[[dict[str, Any]], bytes]:
    def guarded(item: dict[str, Any]) -> bytes:
        # As data, because the cause of an error does not survive Ray's wrapping. Pickled, because a record is not
        # always something that Arrow can hold.
        try:
            return pickle.dumps(function(item))
        except TataraError as error:
            return pickle.dumps(error)

    return guarded


def _opened(result: bytes) -> Any:
    found = pickle.loads(result)
    if isinstance(found, TataraError):
        raise found
    return found
