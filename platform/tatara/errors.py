"""The exception tree.

A ``TataraError`` is a user's mistake or a known fault: the command line prints its message as one line and
exits with 1. Anything else is a defect of ours and keeps its traceback.
"""

import importlib
from collections.abc import Iterator
from types import ModuleType


class TataraError(Exception):
    """What every error that Tatara raises on purpose derives from; the message names the thing and the fix."""


class ConfigError(TataraError):
    """A configuration file, key or value is wrong."""


class DataError(TataraError):
    """Input data is missing, unreadable, or nothing is left of it."""


class ArtifactError(TataraError):
    """An artifact is missing, damaged, of another kind, or already there with another content."""


class StorageError(TataraError):
    """A path or URL cannot be read or written."""


class LayoutError(TataraError):
    """A parallel layout does not fit the model, the batch or the number of workers."""


class EngineError(TataraError):
    """The inference engine cannot start, load a model or answer."""


class ClusterError(TataraError):
    """The Ray cluster cannot be reached, or can never hold what is asked of it."""


class TrainingError(TataraError):
    """Training cannot go on: the loss is not a number, or workers failed too often."""


class RecipeError(TataraError):
    """A recipe is not a DAG of known stages, or one of its stages failed."""


class MissingExtraError(TataraError):
    """An optional dependency is not installed."""


def own_error(error: BaseException | None) -> TataraError | None:
    """The error of ours that an exception is, or that Ray wrapped into it; None when it is a defect."""
    own = (each for each in causes(error) if isinstance(each, TataraError))
    # What Ray makes of an error of ours is one too, with a traceback for its line: the error itself comes after it.
    return next((each for each in own if not isinstance(getattr(each, "cause", None), TataraError)), None)


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An exception and all that it was raised because of, outermost first, in Python's way and in Ray's."""
    yield from _unwrap(error, set())


def _unwrap(error: BaseException | None, seen: set[int]) -> Iterator[BaseException]:
    if error is None or id(error) in seen:
        return
    seen.add(id(error))
    yield error
    # Of Ray Train (per worker, of the controller), of a task, of Ray Data, of Python.
    inner = [*getattr(error, "worker_failures", {}).values()]
    inner += [getattr(error, name, None) for name in ("controller_failure", "cause", "_base_exc", "__cause__")]
    for each in inner:
        if isinstance(each, BaseException):
            yield from _unwrap(each, seen)


def require(module: str, extra: str) -> ModuleType:
    """Import an optional dependency.

    Args:
        module: Dotted module name.
        extra: The extra of the ``tatara`` distribution that brings it.

    Raises:
        MissingExtraError: The module is not installed; the message is the ``pip install`` line that brings it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        # A module that is there but broken inside is a defect of the installation, not a missing extra.
        if error.name is None or error.name.split(".")[0] != module.split(".")[0]:
            raise
        raise MissingExtraError(f"{module} is not installed: pip install 'tatara[{extra}]'") from error
