"""Weights by broadcast between real processes, over gloo; members that die, are slow or come late."""

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rl.broadcast_member import as_bytes, take_part, tensors
from tatara.rl.weight_broadcast import BroadcastFailedError, WeightSender

BUCKET = 2000
"""A few tensors to a bucket."""
LONG = 100.0


class Members:
    """Processes that take part."""

    def __init__(self) -> None:
        self.processes: dict[str, Any] = {}
        self._pipes: dict[str, Any] = {}

    def start(self, name: str, timeout: float = LONG, die_after: int | None = None, stop_after: int | None = None):
        # One import of torch for all of them.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["torch.distributed", "rl.broadcast_member"])
        mine, theirs = context.Pipe()
        arguments = (name, timeout, theirs, die_after, stop_after)
        self.processes[name] = context.Process(target=take_part, args=arguments, daemon=True)
        self.processes[name].start()
        theirs.close()
        self._pipes[name] = mine

    def tell(self, meeting: Any) -> None:
        for name in meeting.members:
            self._pipes[name].send(meeting)

    def answer(self, name: str) -> Any:
        assert self._pipes[name].poll(LONG), name
        return self._pipes[name].recv()

    def lost(self, names: Any) -> str | None:
        dead = [name for name in names if not self.processes[name].is_alive()]
        return f"worker {dead[0]} died" if dead else None

    def end(self) -> None:
        for process in self.processes.values():
            process.kill()
            process.join()


@pytest.fixture
def members() -> Iterator[Members]:
    made = Members()
    yield made
    made.end()


def sent() -> list[tuple[str, str, tuple[int, ...], bytes]]:
    return sorted((name, str(tensor.dtype), tuple(tensor.shape), as_bytes(tensor)) for name, tensor in tensors())


def broadcast(sender: WeightSender, members: Members, names: list[str]) -> tuple[int, int]:
    meeting = sender.meet(names)
    members.tell(meeting)
    sender.gather()
    return sender.send(tensors(), BUCKET)


@pytest.mark.alone
def test_weights_arrive_bit_for_bit_and_a_group_outlives_its_members_failures(members: Members) -> None:
    for name, settings in {"a": {}, "b": {}, "c": {"die_after": 5}}.items():
        members.start(name, **settings)
    sender = WeightSender("127.0.0.1", "gloo", LONG, members.lost)
    expected = sent()
    size = sum(len(content) for *_, content in expected)
    # Twice, in one group.
    first = sender.meet(["a", "b"])
    members.tell(first)
    sender.gather()
    assert sender.send(tensors(), BUCKET) == (len(expected), size)
    assert members.answer("a") == members.answer("b") == expected
    second = sender.meet(["a", "b"])
    assert (second.group, second.port, second.round) == (first.group, first.port, 1)
    members.tell(second)
    sender.gather()
    # One bucket, and none at all.
    assert sender.send(tensors(), 1 << 30) == (len(expected), size)
    assert members.answer("a") == members.answer("b") == expected
    assert broadcast(sender, members, ["a", "b"]) == (len(expected), size)
    assert members.answer("a") == members.answer("b") == expected
    # A third one is killed in the middle: nobody hangs.
    started = time.monotonic()
    with pytest.raises(BroadcastFailedError, match=r"a broadcast broke off|worker c died"):
        broadcast(sender, members, ["a", "b", "c"])
    assert members.lost(["c"]) == "worker c died"
    told = members.answer("a"), members.answer("b")
    assert all(isinstance(each, str) for each in told), told
    assert time.monotonic() - started < LONG
    # The others form a new group.
    assert broadcast(sender, members, ["b", "a"]) == (len(expected), size)
    assert members.answer("a") == members.answer("b") == expected
    sender.close()


@pytest.mark.alone
def test_a_member_that_stops_or_never_comes_makes_a_broadcast_fail_in_time(members: Members) -> None:
    members.start("slow", 3.0, stop_after=2)
    members.start("good", 3.0)
    # Both are up.
    warm = WeightSender("127.0.0.1", "gloo", LONG)
    broadcast(warm, members, ["good"])
    assert members.answer("good") == sent()
    sender = WeightSender("127.0.0.1", "gloo", 3.0)
    with pytest.raises(BroadcastFailedError, match=r"waited 3 s for|broke off"):
        broadcast(sender, members, ["good", "slow"])
    assert isinstance(members.answer("good"), str)
    os.kill(members.processes["slow"].pid, signal.SIGCONT)
    assert isinstance(members.answer("slow"), str)
    # Nobody of the name is there.
    sender.meet(["nobody"])
    with pytest.raises(BroadcastFailedError, match="waited 3 s for worker nobody, which does not come"):
        sender.gather()
    with pytest.raises(BroadcastFailedError, match="no group"):
        sender.send(tensors(), BUCKET)


@pytest.mark.ray
def test_who_dies_in_a_broadcast_or_joins_late_leaves_the_rest_with_the_weights(tmp_path: Path) -> None:
    from tatara import cluster

    cluster.connect(address="local", num_cpus=2)
    try:
        _follow_a_learner(tmp_path)
    finally:
        cluster.disconnect()


def _follow_a_learner(tmp_path: Path) -> None:
    import ray

    from engine.tiny_llama import write_tiny_llama
    from rl.broadcast_member import Member
    from rl.ledger_world import make_prompts, make_stage
    from rl.sync_learner import ENVIRONMENT, SyncLearner
    from tatara.rl.buffer import start_buffer
    from tatara.rl.ledger.book import BufferConfig
    from tatara.rl.prompts import write_prompts

    write_prompts(tmp_path / "prompts.jsonl", make_prompts(4))
    config = BufferConfig(stages=(make_stage(),), batches=9, staleness=1, stop_token_ids=(3,))
    buffer = start_buffer("buffer", config, tmp_path / "prompts.jsonl", tmp_path / "state", "first")
    options = {"num_cpus": 0, "runtime_env": {"env_vars": ENVIRONMENT}}
    model = write_tiny_llama(tmp_path / "tiny", vocabulary=512)
    learner = ray.remote(SyncLearner).options(**options).remote(str(model))
    workers = {name: ray.remote(Member).options(**options).remote(name, "buffer") for name in "abc"}

    def publish(version: int, objects: bool = False) -> Any:
        return learner.publish_and_hear.remote("buffer", version, 20_000, objects)

    def get(promises: Any) -> Any:
        return ray.get(promises, timeout=400)

    # The first goes as objects, to whoever is there; the next one to those.
    for version, by_broadcast in ((0, False), (1, True), (2, True)):
        following = [workers[name].follow.remote(version) for name in "ab"]
        published, said, digest = get(publish(version))
        assert (published.transport, said) == ("broadcast" if by_broadcast else "objects", ())
        assert (published.version, published.names) == (version, 39)
        assert get(following) == [(digest, by_broadcast)] * 2
        assert sorted(get(buffer.probes.remote(version))) == ["a", "b"]
    # b dies in the middle: the version comes as objects.
    good, bad = workers["a"].follow.remote(3), workers["b"].follow.remote(3, die_after=2)
    publishing = publish(3)
    with pytest.raises(ray.exceptions.RayActorError):
        get(bad)
    get(buffer.release.remote("b"))
    published, said, digest = get(publishing)
    assert published.transport == "objects"
    assert len(said) == 1
    assert said[0].startswith("broadcast of version 3 failed (")
    assert said[0].endswith("; it is published as objects instead")
    assert get(good) == (digest, False)
    # The rest forms a new group.
    following = workers["a"].follow.remote(4)
    published, said, digest = get(publish(4))
    assert (published.transport, said, get(following)) == ("broadcast", (), (digest, True))
    # c joins when there is nothing in the object store: the learner hears of it while it waits for a batch.
    assert not get(buffer.batch.remote(0, 0.0)).republish
    late = workers["c"].follow.remote(4)
    assert get(buffer.batch.remote(0, 300.0)).republish
    assert get(publish(4, objects=True))[0].transport == "objects"
    assert get(late) == (digest, False)
    assert not get(buffer.batch.remote(0, 0.0)).republish
    following = [workers[name].follow.remote(5) for name in "ac"]
    published, said, digest = get(publish(5))
    assert (published.transport, said) == ("broadcast", ())
    assert get(following) == [(digest, True)] * 2
