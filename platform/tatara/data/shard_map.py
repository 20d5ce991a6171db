"""Run a function over shards with Ray Data: one task per shard, results as they come."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from tatara.errors import TataraError


def map_shards(
    function: Callable[[dict[str, Any]], dict[str, Any]], items: Sequence[Mapping[str, Any]]
) -> Iterator[dict[str, Any]]:
    """Yield ``function(item)`` for each item, in the order of completion.

    Args:
        function: Runs in a Ray task; writes its shard's files itself and returns a small record.
        items: One record per shard; a record holds literals and bytes.

    Raises:
        TataraError: What a task raised on purpose, as it was raised.
    """
    import ray
    import ray.data

    if not items:
        return
    # One line per data set and a table of operators would bury the stage's own progress; errors are raised anyway.
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = False
    dataset = ray.data.from_items([dict(item) for item in items], override_num_blocks=len(items))
    try:
        yield from dataset.map(function).iter_rows()
    except ray.exceptions.RayError as error:
        raise _own_error(error) or error from None


def _own_error(error: BaseException) -> TataraError | None:
    """The error of ours inside Ray's wrapping, if there is one."""
    seen: set[int] = set()
    pending: list[BaseException | None] = [error]
    while pending:
        current = pending.pop()
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        if isinstance(current, TataraError):
            # Ray's copies inherit from both classes and print the remote traceback.
            cause = getattr(current, "cause", None)
            return cause if isinstance(cause, TataraError) else current
        pending += [current.__cause__, current.__context__, getattr(current, "cause", None)]
    return None
