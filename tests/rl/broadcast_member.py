"""Members of a broadcast, processes of their own."""

import hashlib
import os
import signal
import time
from collections.abc import Iterable
from typing import Any

from tatara.errors import EngineError


def tensors() -> list[tuple[str, Any]]:
    """Weights of several types, an odd number of bytes and nothing among them."""
    import torch

    generator = torch.Generator().manual_seed(3)
    made = [(f"layer.{number}", torch.randn(37, 11, generator=generator)) for number in range(12)]
    made += [("half", torch.randn(5, 3, generator=generator).bfloat16()), ("empty", torch.empty(0, 4))]
    made += [("scalar", torch.tensor(1.5)), ("transposed", torch.randn(7, 9, generator=generator).half().T)]
    return [*made, ("last", torch.tensor([float("nan"), float("-inf"), -0.0]))]


def take_part(name: str, timeout: float, pipe: Any, die_after: int | None, stop_after: int | None) -> None:
    """Come to every meeting that is named; answer with what came, as bytes, or with what went wrong.

    Args:
        name: Of the member.
        timeout: Seconds.
        pipe: Meetings come and answers go.
        die_after: Buckets after which it is killed.
        stop_after: Buckets after which it does nothing any more.
    """
    from tatara.rl.weight_broadcast import WeightReceiver

    receiver = WeightReceiver(name, timeout)
    while (meeting := pipe.recv()) is not None:
        found = []
        try:
            for number, bucket in enumerate(receiver.stream(meeting), 1):
                found += [(each, str(tensor.dtype), tuple(tensor.shape), as_bytes(tensor)) for each, tensor in bucket]
                if number == die_after:
                    os.kill(os.getpid(), signal.SIGKILL)
                if number == stop_after:
                    os.kill(os.getpid(), signal.SIGSTOP)
        except EngineError as error:
            pipe.send(str(error))
        else:
            pipe.send(sorted(found))
    receiver.close()


def as_bytes(tensor: Any) -> bytes:
    """Every bit of a tensor."""
    import torch

    made: bytes = tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()
    return made


def digest(stream: Iterable[tuple[str, Any]]) -> str:
    """Of names, types, shapes and every bit."""
    found = hashlib.sha256()
    for name, tensor in sorted(stream, key=lambda item: item[0]):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode() + as_bytes(tensor.detach()))
    return found.hexdigest()


class Member:
    """A worker without an engine, in an actor: it follows the published versions as a rollout worker does."""

    def __init__(self, name: str, buffer: str) -> None:
        import ray

        from tatara.rl.weight_broadcast import WeightReceiver

        self._name, self._buffer, self._receiver = name, ray.get_actor(buffer), WeightReceiver(name, 120.0)
        self._objects: int | None = None

    def follow(self, version: int, die_after: int | None = None) -> tuple[str, bool]:
        """Get a version, and acknowledge it.

        Args:
            version: Of the policy.
            die_after: Buckets of its broadcast after which this process is killed.

        Returns:
            Digest of the weights, and whether they were broadcast.
        """
        import ray

        from tatara.rl.protocol import Probe
        from tatara.rl.weight_sync import WeightsUnavailableError

        while True:
            told = ray.get(self._buffer.weights.remote(self._objects))
            if told is None or told.version != version:
                time.sleep(0.02)
                continue
            if not self._receiver.takes_part(told):
                self._objects = told.version
                time.sleep(0.02)
                continue
            if told.meeting is not None and die_after is not None:
                for number, _ in enumerate(self._receiver.stream(told.meeting), 1):
                    if number == die_after:
                        os.kill(os.getpid(), signal.SIGKILL)
            try:
                found = digest(self._receiver.receive(told))
            except WeightsUnavailableError:
                continue
            ray.get(self._buffer.acknowledge.remote(self._name, version, Probe(())))
            return found, told.meeting is not None
