"""New weights from the learner to every engine through the object store, and the proof that they arrived.

See `tatara.rl.weight_broadcast` for the other way.
"""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tatara.engine.buckets import BUCKET_BYTES, buckets, described
from tatara.errors import EngineError
from tatara.rl.client import BufferClient
from tatara.rl.protocol import Probe, PublishedWeights

if TYPE_CHECKING:
    import numpy as np
    import torch

    from tatara.engine.stepped import InFlight, SteppedEngine
    from tatara.train.engine import Engine

TOLERANCES = {"float32": 1e-4, "bfloat16": 0.5, "float16": 0.1}
"""Largest difference allowed between a trainer's and an engine's log-probability, in nats, by type of weights."""


class WeightsUnavailableError(EngineError):
    """Published weights cannot be had now: their owner is gone or the network is slow; ask the buffer again."""


@dataclass(frozen=True)
class Publication:
    """What a publication was."""

    version: int
    names: int
    """Tensors."""
    bytes: int
    seconds: float
    """From the first tensor to the buffer's answer, or to the last member's."""
    transport: str = "objects"
    """Or "broadcast"."""


def publish(
    engine: "Engine",
    buffer: BufferClient | None,
    version: int,
    probe_ids: Sequence[Sequence[int]],
    *,
    expected: Sequence[Sequence[float]] = (),
    tolerance: float = 0.0,
    bucket_bytes: int = BUCKET_BYTES,
    dtype: "torch.dtype | None" = None,
) -> Publication | None:
    """Send the trainer's weights to the object store and tell the buffer; collective over all ranks of the learner.

    Besides the model, one layer's matrix and two buckets are in memory at a time.

    Args:
        engine: The trainer's.
        buffer: On rank 0; None on the others, which take part in gathering.
        version: Of the policy.
        probe_ids: Token ids whose log-probabilities every engine reports.
        expected: What the trainer computes for them; empty leaves the comparison to whoever reads the probes.
        tolerance: Largest difference from it that lets an engine serve, in nats.
        bucket_bytes: Size of a bucket.
        dtype: Type to send; None sends the model's own.

    Returns:
        What was published, on rank 0.

    Raises:
        EngineError: The buffer does not answer in time.
    """
    import ray

    from tatara.model.hf import stream_to_hf

    started = time.monotonic()
    stream = stream_to_hf(engine.chunks, engine.spec)
    if buffer is None:
        for _ in stream:
            pass
        return None
    names, total, refs = 0, 0, []
    for bucket in buckets(stream, bucket_bytes, dtype):
        names += len(described(bucket))
        total += bucket.nbytes
        refs.append(ray.put(bucket))
        del bucket
    probes = tuple(tuple(int(token) for token in each) for each in probe_ids)
    promised = tuple(tuple(float(value) for value in each) for each in expected)
    buffer.publish(version, PublishedWeights(version, tuple(refs), names, total, probes, promised, tolerance))
    return Publication(version, names, total, time.monotonic() - started)


def fetch(published: PublishedWeights, timeout: float) -> "list[np.ndarray]":
    """Bring published weights to this machine.

    Args:
        published: Where they are.
        timeout: Seconds.

    Returns:
        The buckets; where Ray's object store holds them, they are views of it.

    Raises:
        WeightsUnavailableError: They are gone, or did not come in time.
        EngineError: What came is not what was published.
    """
    import ray
    from ray.exceptions import GetTimeoutError, ObjectLostError, RaySystemError

    try:
        found: list[np.ndarray] = ray.get(list(published.refs), timeout=timeout)
    except GetTimeoutError:
        raise WeightsUnavailableError(
            f"the {published.bytes:,} bytes of version {published.version} did not come within {timeout:g} s"
        ) from None
    except (ObjectLostError, RaySystemError) as error:
        cause = str(error).splitlines()[0]
        raise WeightsUnavailableError(f"the weights of version {published.version} are lost: {cause}") from None
    size, names = sum(bucket.nbytes for bucket in found), sum(len(described(bucket)) for bucket in found)
    if (size, names) != (published.bytes, published.names):
        raise EngineError(
            f"version {published.version} was published as {published.names} tensors in {published.bytes:,} bytes, "
            f"but {names} in {size:,} came"
        )
    return found


def load(
    engine: "SteppedEngine",
    published: PublishedWeights,
    received: "Sequence[tuple[str, torch.Tensor]]",
    in_flight: "InFlight",
) -> tuple[float, Probe]:
    """Update an engine, and compute the probe.

    Args:
        engine: To update, between two steps.
        published: What was received.
        received: All of its names and tensors.
        in_flight: See `SteppedEngine.update_weights`.

    Returns:
        Seconds of the update, in which nothing is generated, and the probe.

    Raises:
        EngineError: The weights are not those of the engine's model. Before anything was loaded, if it shows in the
            names and shapes.
    """
    engine.expected.check({name: tuple(tensor.shape) for name, tensor in received})
    started = time.monotonic()
    engine.update_weights(received, published.version, in_flight=in_flight)
    seconds = time.monotonic() - started
    return seconds, Probe(tuple(tuple(values) for values in engine.logprobs(published.probe_ids)))


@dataclass(frozen=True)
class ProbeComparison:
    """How far engines are from the trainer after a synchronisation, in nats."""

    version: int
    largest: float
    mean: float
    """Mean absolute difference over all tokens and workers."""
    worker: str
    """Whose is the largest."""
    tokens: int
    """Compared, over all workers."""


def compare_probes(
    trainer: Sequence[Sequence[float]], engines: Mapping[str, Probe], tolerance: float, version: int
) -> ProbeComparison:
    """Compare what the trainer and every engine compute with one version.

    Args:
        trainer: Log-probability of each token but the first of each probe sequence.
        engines: The same by worker.
        tolerance: Largest difference allowed, in nats.
        version: Of the weights.

    Raises:
        EngineError: A difference is larger, or not a number, or a worker computed other tokens.
    """
    expected = [value for sequence in trainer for value in sequence]
    worst, where, total = 0.0, "", 0.0
    for worker, probe in sorted(engines.items()):
        if [len(values) for values in probe.logprobs] != [len(values) for values in trainer]:
            raise EngineError(f"worker {worker} answered another probe of version {version}: it is of another run")
        for mine, theirs in zip(expected, (value for values in probe.logprobs for value in values), strict=True):
            difference = abs(mine - theirs)
            if not math.isfinite(difference):
                raise EngineError(
                    f"worker {worker} and the trainer disagree on version {version}: a log-probability is {theirs:g} "
                    f"in the engine, {mine:g} in the trainer"
                )
            total += difference
            if difference > worst or not where:
                worst, where = max(worst, difference), worker
    count = len(expected) * len(engines)
    mean = total / count if count else 0.0
    if worst > tolerance:
        raise EngineError(
            f"worker {where} does not compute what the trainer does with version {version}: log-probabilities differ "
            f"by up to {worst:.3g} nats (mean over {len(engines)} workers {mean:.3g}), allowed are {tolerance:g}; were "
            "its weights loaded whole, and is its model the trainer's?"
        )
    return ProbeComparison(version, worst, mean, where, count)
