"""Calls to the buffer that end: in an answer, or in one line that says what was waited for."""

from collections.abc import Sequence
from typing import Any

from tatara.errors import EngineError, own_error
from tatara.rl.protocol import BatchReply, Probe, PublishedWeights


class BufferClient:
    """Asks the buffer, and waits while Ray starts it again; for callers that can do nothing else meanwhile."""

    def __init__(self, name: str, patience: float) -> None:
        """Find the buffer.

        Args:
            name: Of its actor.
            patience: Time that it may take to answer besides what it was asked to wait, in seconds.

        Raises:
            EngineError: There is no such actor.
        """
        import ray

        self.patience = patience
        try:
            self.handle = ray.get_actor(name)
        except ValueError:
            raise EngineError(f"there is no buffer '{name}' in the cluster: the run's driver is gone") from None

    def batch(self, number: int, wait: float) -> BatchReply:
        """See `tatara.rl.buffer.Buffer.batch`."""
        reply: BatchReply = self._call("batch", number, wait, wait=wait)
        return reply

    def publish(self, version: int, weights: PublishedWeights) -> None:
        """See `tatara.rl.buffer.Buffer.publish`."""
        self._call("publish", version, weights)

    def probes(self, version: int) -> dict[str, Probe]:
        """See `tatara.rl.buffer.Buffer.probes`."""
        found: dict[str, Probe] = self._call("probes", version)
        return found

    def evaluate(self, version: int) -> None:
        """See `tatara.rl.buffer.Buffer.evaluate`."""
        self._call("evaluate", version)

    def checkpointed(self, number: int) -> None:
        """See `tatara.rl.buffer.Buffer.checkpointed`."""
        self._call("checkpointed", number)

    def status(self, since: int = 0) -> dict[str, Any]:
        """See `tatara.rl.buffer.Buffer.status`."""
        found: dict[str, Any] = self._call("status", since)
        return found

    def release(self, workers: Sequence[str]) -> None:
        """See `tatara.rl.buffer.Buffer.release`."""
        for worker in workers:
            self._call("release", worker)

    def fail(self, reason: str) -> None:
        """See `tatara.rl.buffer.Buffer.fail`."""
        self._call("fail", reason)

    def stop(self) -> None:
        """See `tatara.rl.buffer.Buffer.stop`."""
        self._call("stop")

    def _call(self, method: str, *arguments: Any, wait: float = 0.0) -> Any:
        import ray
        from ray.exceptions import GetTimeoutError, RayActorError

        try:
            return ray.get(getattr(self.handle, method).remote(*arguments), timeout=wait + self.patience)
        except GetTimeoutError:
            raise EngineError(
                f"the buffer did not answer `{method}` within {wait + self.patience:g} s: is its machine overloaded?"
            ) from None
        except RayActorError as error:
            raise EngineError(f"the buffer died and was not started again: {str(error).splitlines()[0]}") from error
        except Exception as error:
            # Ray wraps what the buffer raised.
            raise (own_error(error) or error) from error
