"""A server that runs until it is told to stop."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from tatara import cluster
from tatara.artifact import Artifact
from tatara.serve.config import ServeConfig
from tatara.serve.deployment import check_before_start, deployed

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class _Stop(BaseException):
    """A stop signal arrived; not an Exception, so that nothing on the way takes it for a failure."""


def serve_forever(
    model: Artifact | Path,
    config: ServeConfig,
    *,
    address: str | None = None,
    log: Callable[[str], None] = print,
) -> None:
    """Serve a model until SIGINT or SIGTERM, then stop everything that was started.

    Args:
        model: A model artifact, or a directory in the Hugging Face layout.
        config: Its settings.
        address: Ray cluster to run on, see `tatara.cluster.connect`; without one a private cluster is started.
        log: Takes the lines that a user reads: what is waited for, the address, an example.

    Raises:
        EngineError: See `tatara.serve.deployment.deployed`.
        ClusterError: There is no cluster at ``address``, or a replica can never fit it.
    """
    check_before_start(model, config)
    try:
        with _stop_signals() as rearm:
            connected_before = cluster.is_connected()
            cluster.connect(address)
            # Ray puts its own handler for SIGTERM in place, one that leaves without stopping the server.
            rearm()
            try:
                with deployed(model, config, log) as endpoint:
                    log(f"{endpoint.model} answers at {endpoint.url} (ready in {endpoint.start_seconds:.0f} s); try:")
                    log(f"  {endpoint.curl('Hello')}")
                    log("Ctrl-C stops it")
                    _wait_for_signal()
            finally:
                if not connected_before:
                    cluster.disconnect()
    except _Stop:
        log("stopped")


def _wait_for_signal() -> None:
    while True:
        signal.pause()


@contextmanager
def _stop_signals() -> Iterator[Callable[[], None]]:
    """Turn the first stop signal into an exception in the main thread and ignore those that follow.

    Yields:
        Puts the handlers in place again, for when a library has replaced them.
    """
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("a server that runs until a signal must be started from the main thread")

    def stop(_number: int, _frame: FrameType | None) -> None:
        for number in STOP_SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        raise _Stop

    def arm() -> None:
        for number in STOP_SIGNALS:
            signal.signal(number, stop)

    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    arm()
    try:
        yield arm
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
