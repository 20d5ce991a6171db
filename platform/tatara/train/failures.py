"""Failures of a training run as one clear line, whatever Ray wrapped around them."""

from typing import Any

from ray.exceptions import RayActorError
from ray.train.v2.api.callback import UserCallback

from tatara.errors import TataraError, TrainingError, causes, own_error


class StopOnOwnErrors(UserCallback):
    """Ends a run at once when a worker raised one of our errors: restarting workers cannot mend a bad input.

    Ray's failure policy retries every exception of a worker, but none that a callback raises in the controller.
    """

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Raise the first of our own errors, if there is one."""
        for error in worker_exceptions.values():
            own = own_error(error)
            if own is not None:
                raise own


def as_training_error(error: BaseException, restarts: int) -> TataraError:
    """The one line that the user reads for a failed run."""
    own = own_error(error)
    if own is not None:
        return own
    failures: dict[int, BaseException] = getattr(error, "worker_failures", {})
    if failures:
        # When a process dies, the other ranks fail too, in the collective that they wait in.
        rank, first = min(failures.items(), key=lambda item: (not isinstance(item[1], RayActorError), item[0]))
        told = f"worker {rank} failed with {_one_line(first)}"
    else:
        told = _one_line(error)
    again = f" after {restarts} restarts" if restarts else ""
    return TrainingError(f"training failed{again}: {told}; run it again to continue from the last checkpoint")


def _one_line(error: BaseException) -> str:
    innermost = [*causes(error)][-1]
    lines = [line.strip() for line in str(innermost).splitlines() if line.strip()]
    return f"{type(innermost).__name__}: {lines[-1] if lines else 'no message'}"
