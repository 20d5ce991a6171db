"""What all ranks do together, or on their own with the same end: a result on all of them, or the same error."""

from collections.abc import Callable
from typing import Any

import torch.distributed as dist

from tatara.errors import ArtifactError, StorageError, TataraError


def agreed(work: Callable[[], Any]) -> Any:
    """Do something on every rank; if it fails on one, all raise what the first of these said."""
    result, problem = None, None
    try:
        result = work()
    except TataraError as error:
        problem = error
    told = next((each for each in gathered(str(problem) if problem else None) if each), None)
    if told is not None:
        raise ArtifactError(told) from problem
    return result


def rank() -> int:
    """Of this process; 0 where there is only one."""
    return dist.get_rank() if dist.is_initialized() else 0


def size() -> int:
    """Ranks that there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def gathered(value: Any) -> list[Any]:
    """What each rank gives, on all of them."""
    found: list[Any] = [value] * size()
    if dist.is_initialized():
        dist.all_gather_object(found, value)
    return found


def from_rank_0(work: Callable[[], Any]) -> Any:
    """What something that only rank 0 does gives, on all ranks; if it fails there, all raise."""
    told: list[Any] = [None, None]
    if rank() == 0:
        try:
            told[0] = work()
        except (OSError, TataraError) as error:
            told[1] = " ".join(str(error).split())
    if dist.is_initialized():
        dist.broadcast_object_list(told, src=0)
    if told[1] is not None:
        raise StorageError(told[1])
    return told[0]


def problem_of(work: Callable[[], None]) -> str | None:
    """What went wrong with something that this rank does on its own."""
    try:
        work()
    except (OSError, TataraError) as error:
        return " ".join(str(error).split())
    return None
