"""What the buffer, the workers and the learner say to each other."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from tatara.rl.record import GroupAssignment, ScoredGroup

if TYPE_CHECKING:
    import ray


@dataclass(frozen=True)
class Lease:
    """The buffer's answer to a rollout worker that has room."""

    groups: tuple[GroupAssignment, ...]
    """What to generate; empty when nothing may start before the wait was over."""
    newest: int
    """Newest version of the policy that was published; a worker that holds an older one gets it."""
    stop: bool
    """The run is over: finish nothing, leave."""


@dataclass(frozen=True)
class BatchReply:
    """The buffer's answer to the learner that asked for a rollout batch."""

    groups: tuple[ScoredGroup, ...] | None
    """The batch, ordered by position; None: not complete before the wait was over, ask again."""
    republish: bool
    """The buffer lost the published weights (it was restarted), or a worker took no part in their broadcast: publish
    the newest version again, as objects."""


@dataclass(frozen=True)
class Meeting:
    """Where workers take part in a broadcast of weights; see `tatara.rl.weight_broadcast`."""

    host: str
    port: int
    """Of the store that the sender, the learner's first rank, keeps for the group."""
    group: str
    """Names the group; a port may be used again."""
    members: tuple[str, ...]
    """Workers that take part, by rank from 1 on; the sender has rank 0."""
    backend: Literal["gloo", "nccl"]
    round: int = 0
    """Counts the broadcasts of the group, which stays together until one fails or its members change."""


@dataclass(frozen=True)
class PublishedWeights:
    """Where one version of the policy is to be had: in the object store, or at a meeting."""

    version: int
    refs: "tuple[ray.ObjectRef, ...]"
    """Buckets, each safetensors bytes of tensors by their Hugging Face names. The learner's first rank owns them."""
    names: int
    """Tensors in all buckets; 0 at a meeting, where only the last bucket says how many came."""
    bytes: int
    """Size of all buckets; 0 at a meeting."""
    probe_ids: tuple[tuple[int, ...], ...]
    """Token ids whose log-probabilities every worker reports after it loaded the version."""
    expected: tuple[tuple[float, ...], ...] = ()
    """What the trainer computes for them, every token but the first of each; an engine that differs does not serve."""
    tolerance: float = 0.0
    """Largest difference allowed, in nats."""
    meeting: Meeting | None = None
    """Where the version is broadcast; then nothing is in the object store. Whoever is not a member asks for it there,
    see `tatara.rl.buffer.Buffer.weights`."""


@dataclass(frozen=True)
class Probe:
    """What a worker's engine computes with a version that it has just loaded."""

    logprobs: tuple[tuple[float, ...], ...]
    """Of every token but the first of each probe sequence, at temperature 1, in nats."""
