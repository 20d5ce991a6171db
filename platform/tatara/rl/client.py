"""The buffer for callers that can do nothing until they have its answer."""

import threading
import time
from collections.abc import Collection, Sequence
from typing import Any

from tatara.errors import EngineError
from tatara.rl.asking import Question, find
from tatara.rl.protocol import BatchReply, Probe, PublishedWeights
from tatara.rl.record import Prompt, Rollout, RolloutKey, Score

_LOOK_SECONDS = 0.5
"""Pause between looks at whether the caller still wants the answer."""


class StoppedError(EngineError):
    """The caller was told to stop while it waited for the buffer."""


class BufferClient:
    """Asks the buffer and waits, also while Ray starts it again; see `tatara.rl.asking` for what failures lead to."""

    def __init__(self, buffer: Any, patience: float, stopping: threading.Event | None = None) -> None:
        """Find the buffer.

        Args:
            buffer: Name of its actor, or the actor's handle.
            patience: Time that it may take to answer besides what it was asked to wait, in seconds.
            stopping: Once it is set, no call waits any longer: each raises `StoppedError`.

        Raises:
            EngineError: There is no such actor.
        """
        self.patience = patience
        self.handle = find(buffer) if isinstance(buffer, str) else buffer
        self._stopping = stopping

    def lease_scoring(
        self, worker: str, room: int, wait: float, held: Collection[RolloutKey]
    ) -> list[tuple[Prompt, Rollout]]:
        """See `tatara.rl.buffer.Buffer.lease_scoring`."""
        found: list[tuple[Prompt, Rollout]] = self._call("lease_scoring", worker, room, wait, held, wait=wait)
        return found

    def scored(self, worker: str, scores: Sequence[Score]) -> None:
        """See `tatara.rl.buffer.Buffer.scored`."""
        self._call("scored", worker, scores)

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
        from ray.exceptions import GetTimeoutError, RayError

        question = Question(self.handle, method, arguments, wait, self.patience)
        promise = question.ask()
        while True:
            # Before anything else: nobody waits for a buffer that is not there once the caller is to stop.
            if self._stopping is not None and self._stopping.is_set():
                raise StoppedError(f"told to stop while the buffer was asked `{method}`")
            pause = question.left() if self._stopping is None else min(question.left(), _LOOK_SECONDS)
            if promise is None:
                assert question.again is not None
                time.sleep(max(0.0, min(pause, question.again - time.monotonic())))
                if time.monotonic() >= question.again:
                    promise = question.ask()
                continue
            try:
                return ray.get(promise, timeout=pause)
            except GetTimeoutError:
                continue
            except RayError as error:
                question.failed(error)
                promise = None
