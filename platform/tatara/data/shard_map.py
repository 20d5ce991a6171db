"""Run a function over shards with Ray Data: one task per shard, results as they come."""

import logging
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from tatara.errors import TataraError

Result = TypeVar("Result")


def map_shards(function: Callable[[dict[str, Any]], Result], items: Sequence[Mapping[str, Any]]) -> Iterator[Result]:
    """Yield ``function(item)`` for each item, in the order of completion.

    Args:
        function: Runs in a Ray task of one CPU; writes its shard's files itself and returns a small record.
        items: One record per shard; a record holds literals and bytes.

    Raises:
        TataraError: What a task raised on purpose, as it was raised.
    """
    import ray.data
    from ray.util.debug import log_once

    if not items:
        return

    def guarded(item: dict[str, Any]) -> dict[str, Any]:
        # As data, because the cause of an error does not survive Ray's wrapping. Pickled, because a record is not
        # always something that Arrow can hold.
        try:
            return {"result": pickle.dumps(function(item))}
        except TataraError as error:
            return {"result": pickle.dumps(error)}

    # The stage shows its own progress. Ray Data's plans and bars would bury it, and so would its warning that they
    # are off; other warnings, of resources that are not there for example, stay.
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    log_once("ray_data_progress_manager_disabled")
    ray.data.DataContext.get_current().enable_progress_bars = False
    dataset = ray.data.from_items([dict(item) for item in items], override_num_blocks=len(items))
    for row in dataset.map(guarded).iter_rows():
        result = pickle.loads(row["result"])
        if isinstance(result, TataraError):
            raise result
        yield result
