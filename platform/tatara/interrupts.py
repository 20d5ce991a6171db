"""Signals that ask to stop, as an exception in the main thread."""

import contextlib
import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_PR_SET_PDEATHSIG = 1


class Interrupted(KeyboardInterrupt):
    """The user, or whoever supervises us, asked to stop.

    A `KeyboardInterrupt`, since that is the one exception of a signal handler that ``ray.get`` lets through (as a bare
    `KeyboardInterrupt`: catch that where Ray may have been waiting).
    """


_LOST_AFTER = 2.0
_lost = threading.Event()


def _raise(number: int, _frame: FrameType | None) -> None:
    # What cleans up must not be cut short by an impatient second signal.
    for other in STOP_SIGNALS:
        signal.signal(other, _raise_if_lost)
    watch = threading.Timer(_LOST_AFTER, _watch, [number])
    watch.daemon = True
    watch.start()
    raise Interrupted(signal.Signals(number).name)


def _raise_if_lost(number: int, frame: FrameType | None) -> None:
    if _lost.is_set():
        _lost.clear()
        _raise(number, frame)


def _watch(number: int) -> None:
    """Send a stop signal again that nobody heeds.

    What a handler raises while Python is in a finaliser or a callback is printed and forgotten. Where it was not, the
    main thread is by now in somebody's ``except`` or ``finally``, or has left `raised`.
    """
    main = threading.main_thread().ident or 0
    found: Any = sys._current_exceptions().get(main)
    error = found[1] if isinstance(found, tuple) else found
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    if error is None and signal.getsignal(number) is _raise_if_lost:
        _lost.set()
        signal.pthread_kill(main, number)


@contextlib.contextmanager
def raised() -> Iterator[Callable[[], None]]:
    """Raise `Interrupted` in the main thread on the first stop signal and ignore those that follow.

    Yields:
        Puts the handlers in place again, for when a library (Ray does) has replaced them.
    """

    def arm() -> None:
        for number in STOP_SIGNALS:
            signal.signal(number, _raise)

    with _restored():
        if threading.current_thread() is threading.main_thread():
            arm()
            yield arm
        else:
            yield lambda: None


@contextlib.contextmanager
def ignored() -> Iterator[None]:
    """Finish what must not be cut short."""
    with _restored():
        if threading.current_thread() is threading.main_thread():
            for number in STOP_SIGNALS:
                signal.signal(number, signal.SIG_IGN)
        yield


@contextlib.contextmanager
def _restored() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before: list[Any] = [signal.getsignal(number) for number in STOP_SIGNALS]
    try:
        yield
    finally:
        for number, handler in zip(STOP_SIGNALS, before, strict=True):
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)


def die_with_parent(parent: int) -> None:
    """Have the kernel send SIGTERM to this process when its parent ends, however it ends (Linux; else nothing).

    Args:
        parent: Process id of the parent; when it is gone already, this process ends at once.
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        raise SystemExit(1)
