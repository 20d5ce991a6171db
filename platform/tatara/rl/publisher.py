"""How the learner publishes its weights: by broadcast to the engines that can take part, else as objects."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, Self

from tatara.rl.client import BufferClient
from tatara.rl.grpo import GrpoConfig
from tatara.rl.placement import place, transport
from tatara.rl.protocol import PublishedWeights
from tatara.rl.weight_broadcast import BroadcastFailedError, WeightSender
from tatara.rl.weight_sync import Publication, publish

if TYPE_CHECKING:
    from tatara.train.engine import Engine

_NO_NOTES = 1 << 62
"""Asks the buffer for a status without what it noted."""


@dataclass(frozen=True)
class Sending:
    """What is sent, and how."""

    transport: Literal["objects", "nccl", "gloo"]
    """Objects, or the backend of the broadcast."""
    bucket_bytes: int
    timeout: float
    """Longest time of a broadcast, in seconds."""

    @classmethod
    def of(cls, config: GrpoConfig) -> Self:
        """As the run says, for a learner in this process and on this cluster."""
        import ray
        import torch

        placed = place(config, ray.cluster_resources().get("GPU", 0.0))
        way = transport(config, placed, torch.cuda.is_available())
        return cls(way, config.sync.bucket_bytes, config.sync.timeout)


class Publisher:
    """Publishes versions; every method is collective over the learner's ranks.

    The first publication goes as objects: engines that start get it whenever they are ready. Those that answered for
    the version before are the members of a broadcast. A worker that joins in between asks the buffer for objects, and
    the learner publishes its version again.
    """

    def __init__(
        self,
        engine: "Engine",
        buffer: BufferClient | None,
        sending: Sending,
        agree: Callable[[int], int],
        say: Callable[[str], None],
    ) -> None:
        """Nothing is sent yet.

        Args:
            engine: The trainer's.
            buffer: On rank 0; None on the others.
            sending: How.
            agree: Tells every rank what rank 0 found.
            say: Gets a line when a broadcast fails.
        """
        self._engine, self._buffer, self._sending, self._agree, self._say = engine, buffer, sending, agree, say
        self._last: int | None = None
        self._sender: WeightSender | None = None

    def publish(
        self,
        version: int,
        probe_ids: Sequence[Sequence[int]],
        expected: Sequence[Sequence[float]] = (),
        tolerance: float = 0.0,
        *,
        objects: bool = False,
    ) -> Publication | None:
        """Send the model's weights and tell the buffer.

        Args:
            version: Of the policy.
            probe_ids: See `tatara.rl.weight_sync.publish`.
            expected: See there.
            tolerance: See there.
            objects: No broadcast: somebody waits who cannot take part.

        Returns:
            What was published, on rank 0.

        Raises:
            EngineError: The buffer does not answer in time.
        """
        probes = tuple(tuple(int(token) for token in each) for each in probe_ids)
        promised = tuple(tuple(float(value) for value in each) for each in expected)
        sent = None
        if self._sending.transport != "objects" and self._last is not None and not objects:
            sent = self._broadcast(PublishedWeights(version, (), 0, 0, probes, promised, tolerance))
        self._last = version
        if self._agree(int(sent is not None)):
            return sent
        return publish(
            self._engine,
            self._buffer,
            version,
            probe_ids,
            expected=expected,
            tolerance=tolerance,
            bucket_bytes=self._sending.bucket_bytes,
        )

    def close(self) -> None:
        """Give the group up."""
        if self._sender is not None:
            self._sender.close("the learner has ended")

    def _broadcast(self, published: PublishedWeights) -> Publication | None:
        """Returns what was sent, on rank 0; None on the others, and if it failed."""
        from tatara.model.hf import stream_to_hf

        started = time.monotonic()
        members = self._members()
        # Rank 0's answer counts.
        if not self._agree(int(members is not None and self._gathered(published, members))):
            return None
        stream = stream_to_hf(self._engine.chunks, self._engine.spec)
        found = None
        if self._sender is not None:
            try:
                names, total = self._sender.send(stream, self._sending.bucket_bytes)
                found = Publication(published.version, names, total, time.monotonic() - started, "broadcast")
            except BroadcastFailedError as error:
                self._failed(published.version, error)
        # The other ranks take part in gathering to the end, whatever became of the broadcast.
        for _ in stream:
            pass
        return found

    def _members(self) -> tuple[str, ...] | None:
        """Workers that hold the version before and live; None: there are none, or somebody waits for objects."""
        if self._buffer is None:
            return None
        told = self._buffer.status(_NO_NOTES)
        if told["objects_wanted"] or told["weights"] is None:
            return None
        holding = told["probed"].get(self._last, ())
        workers = told["workers"]
        return tuple(name for name in holding if name in workers and not workers[name]["released"]) or None

    def _gathered(self, published: PublishedWeights, members: tuple[str, ...]) -> bool:
        assert self._buffer is not None
        if self._sender is None:
            import ray

            backend: Literal["gloo", "nccl"] = "nccl" if self._sending.transport == "nccl" else "gloo"
            host = ray.util.get_node_ip_address()
            self._sender = WeightSender(host, backend, self._sending.timeout, self._lost)
        try:
            meeting = self._sender.meet(members)
            self._buffer.publish(published.version, replace(published, meeting=meeting))
            self._sender.gather()
        except BroadcastFailedError as error:
            self._failed(published.version, error)
            return False
        return True

    def _lost(self, members: Sequence[str]) -> str | None:
        assert self._buffer is not None
        told = self._buffer.status(_NO_NOTES)
        if told["weights"] is None:
            return "the buffer was started again and knows of no broadcast"
        workers = told["workers"]
        gone = [name for name in members if name not in workers or workers[name]["released"]]
        return f"worker {gone[0]} died" if gone else None

    def _failed(self, version: int, error: BroadcastFailedError) -> None:
        self._say(f"broadcast of version {version} failed ({error}); it is published as objects instead")
