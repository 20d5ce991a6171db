"""Weights from the learner's first rank to the engines by broadcast: NCCL between GPUs, gloo between CPUs.

Sender and workers form a group of their own, not the default one, which belongs to the trainer in one process and to
vLLM in the other. The sender keeps a store for it, in which everything is said that is not a weight::

    ROUND/ready/RANK    the member takes part in this broadcast
    ROUND/bucket/N      names, types, shapes and places of the tensors of bucket N, which is broadcast next; or the end
    ROUND/done/RANK     the member has got all of them
    failed              why the group is given up

Nobody is called: the sender says through the buffer where it waits (`Meeting`), and workers come when they hear of it.
Nothing is broadcast before all members are ready, every wait ends at a deadline, and the calls that cannot be
interrupted have a thread of their own (`Lane`). A group in which something failed is given up, and whoever sends
publishes that version through the object store.

A bucket is received while the engine generates, and kept in the host's memory: what is loaded, between two steps, is
whole, and a GPU holds one bucket at a time besides its engine. An engine that is sharded over several processes takes
part in none of this and gets objects.
"""

import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal

from tatara.engine.buckets import unpacked
from tatara.rl.broadcast_buckets import grouped, packed, tensor_of
from tatara.rl.broadcast_group import BroadcastFailedError, Group, reason_of
from tatara.rl.broadcast_lane import SENDER
from tatara.rl.protocol import Meeting, PublishedWeights
from tatara.rl.weight_sync import fetch

if TYPE_CHECKING:
    import torch

    Named = tuple[str, torch.Tensor]

__all__ = ["BroadcastFailedError", "WeightReceiver", "WeightSender"]


class WeightSender:
    """The learner's first rank: `meet` says where, `gather` waits for the members, `send` sends; for one thread.

    What fails raises a `BroadcastFailedError`, and the next `meet` forms another group.
    """

    def __init__(
        self,
        host: str,
        backend: Literal["gloo", "nccl"],
        timeout: float,
        lost: Callable[[Sequence[str]], str | None] = lambda members: None,
    ) -> None:
        """Nothing is done yet.

        Args:
            host: Address of this machine, as workers reach it.
            backend: What to send with; "nccl" takes tensors on this process's GPU.
            timeout: Longest time from `gather` to the end of `send`, in seconds.
            lost: Asked now and then: what became of one of these members, or None.
        """
        self._host, self._backend, self._timeout, self._lost = host, backend, timeout, lost
        self._store: Any = None
        self._group: Group | None = None

    def meet(self, members: Sequence[str]) -> Meeting:
        """Where the next broadcast takes place; in the former group if that has these members.

        Raises:
            BroadcastFailedError: There is no place for it on this machine.
        """
        if self._group is not None and self._group.meeting.members == tuple(members):
            old = self._group.meeting
            self._group.begin(replace(old, round=old.round + 1))
            return self._group.meeting
        self.close()
        self._store = self._guarded(self._serve)
        meeting = Meeting(self._host, self._store.port, uuid.uuid4().hex, tuple(members), self._backend)
        self._group = Group(self._store, meeting, SENDER, self._timeout, self._look)
        self._group.begin(meeting)
        return meeting

    def gather(self) -> None:
        """Wait for all members; the group is formed.

        Raises:
            BroadcastFailedError: One is dead, or did not come in time.
        """
        self._guarded(self._gather)

    def send(self, stream: "Iterable[Named]", bucket_bytes: int) -> tuple[int, int]:
        """Broadcast weights; besides the bucket on its way, one more is in memory.

        Args:
            stream: Names and tensors, on any device.
            bucket_bytes: Bytes after which a bucket is closed.

        Returns:
            Tensors and bytes that every member has got.

        Raises:
            BroadcastFailedError: A member died, or it took too long.
        """
        found: tuple[int, int] = self._guarded(lambda: self._send(stream, bucket_bytes))
        return found

    def close(self, reason: str | None = None) -> None:
        """Give the group up, if there is one."""
        if self._group is not None:
            self._group.close(reason)
        self._group = self._store = None

    def _serve(self) -> Any:
        from torch.distributed import TCPStore

        wait = timedelta(seconds=self._timeout)
        return TCPStore(self._host, 0, is_master=True, timeout=wait, wait_for_workers=False)

    def _gather(self) -> None:
        group = self._open()
        # One by one, so that what is said names who is missing.
        for rank, name in enumerate(group.meeting.members, 1):
            group.until([f"ready/{rank}"], f"worker {name}, which does not come")
        group.form()

    def _send(self, stream: "Iterable[Named]", bucket_bytes: int) -> tuple[int, int]:
        group = self._open()
        lane, names, total, said = group.form(), 0, 0, []
        under_way: Future[torch.Tensor] | None = None
        for number, held in enumerate(grouped(stream, bucket_bytes)):
            header, data = packed(held, group.meeting.backend)
            if under_way is not None:
                group.result(under_way, "a bucket of weights to be sent")
            said.append(f"bucket/{number}")
            group.say(said[-1], {"bytes": data.nbytes, "tensors": header})
            under_way = lane.send(data)
            names, total = names + len(header), total + sum(last - first for *_, first, last in header)
            del held, data
        if under_way is not None:
            group.result(under_way, "a bucket of weights to be sent")
        said.append(f"bucket/{len(said)}")
        group.say(said[-1], {"end": [names, total]})
        for rank, name in enumerate(group.meeting.members, 1):
            group.until([f"done/{rank}"], f"worker {name}, which has not got all weights")
            said += [f"ready/{rank}", f"done/{rank}"]
        group.forget(said)
        return names, total

    def _guarded(self, call: Callable[[], Any]) -> Any:
        """What torch raises for a connection that broke or a call that took too long is a RuntimeError."""
        try:
            return call()
        except BroadcastFailedError as error:
            self.close(str(error))
            raise
        except RuntimeError as error:
            reason = f"a broadcast broke off: {reason_of(error)}"
            self.close(reason)
            raise BroadcastFailedError(reason) from error

    def _open(self) -> Group:
        if self._group is None:
            raise BroadcastFailedError("there is no group to send to: meet first")
        return self._group

    def _look(self) -> None:
        reason = self._lost(self._open().meeting.members)
        if reason is not None:
            raise BroadcastFailedError(reason)


class WeightReceiver:
    """A worker's side: gets published weights by whichever way they come; for one thread."""

    def __init__(self, name: str, timeout: float) -> None:
        """Nothing is done yet.

        Args:
            name: Of the worker.
            timeout: Longest time that receiving may take, in seconds.
        """
        self._name, self._timeout = name, timeout
        self._group: Group | None = None
        self._missed: Meeting | None = None

    def takes_part(self, published: PublishedWeights) -> bool:
        """Whether `receive` can get them; else the buffer must be asked for objects."""
        meeting = published.meeting
        return meeting is None or (self._name in meeting.members and meeting != self._missed)

    def receive(self, published: PublishedWeights) -> "list[Named]":
        """Get all of them.

        Returns:
            Names and tensors, in the host's memory, not to be written to.

        Raises:
            WeightsUnavailableError: They are not to be had now.
            EngineError: What came is not what was published.
        """
        if published.meeting is None:
            return [item for bucket in fetch(published, self._timeout) for item in unpacked(bucket)]
        return [item for bucket in self.stream(published.meeting) for item in bucket]

    def stream(self, meeting: Meeting) -> "Iterator[list[Named]]":
        """Take part in a broadcast, bucket by bucket.

        Raises:
            BroadcastFailedError: It did not come to its end.
        """
        try:
            yield from self._stream(meeting)
        except BroadcastFailedError as error:
            self._give_up(meeting, str(error))
            raise
        except RuntimeError as error:
            reason = f"a broadcast broke off: {reason_of(error)}"
            self._give_up(meeting, reason)
            raise BroadcastFailedError(reason) from error

    def close(self) -> None:
        """Leave the group, if there is one."""
        if self._group is not None:
            self._group.close()
        self._group = None

    def _stream(self, meeting: Meeting) -> "Iterator[list[Named]]":
        group, names, total, number = self._join(meeting), 0, 0, 0
        group.say(f"ready/{group.rank}")
        lane = group.form()
        while "end" not in (told := group.hear(f"bucket/{number}")):
            data = group.result(lane.receive(told["bytes"]), "a bucket of weights to come")
            bucket = [(name, tensor_of(data, *entry)) for name, *entry in told["tensors"]]
            names, total, number = names + len(bucket), total + sum(tensor.nbytes for _, tensor in bucket), number + 1
            yield bucket
        if told["end"] != [names, total]:
            raise BroadcastFailedError(f"{names} tensors in {total:,} bytes came, {told['end']} were sent")
        group.say(f"done/{group.rank}")

    def _join(self, meeting: Meeting) -> Group:
        if self._group is None or self._group.meeting.group != meeting.group:
            self.close()
            from torch.distributed import TCPStore

            wait = timedelta(seconds=self._timeout)
            store = TCPStore(meeting.host, meeting.port, is_master=False, timeout=wait, wait_for_workers=False)
            rank = meeting.members.index(self._name) + 1
            self._group = Group(store, meeting, rank, self._timeout, lambda: None)
        self._group.begin(meeting)
        return self._group

    def _give_up(self, meeting: Meeting, reason: str) -> None:
        self._missed = meeting
        if self._group is not None:
            self._group.close(f"worker {self._name}: {reason}")
        self._group = None
