"""What the buffer answers, and when; without Ray."""

import asyncio
import time

import pytest

from rl.buffer_cases import CONFIG, bare, local, write_files
from rl.ledger_world import make_rollout, make_score
from tatara.errors import ConfigError, StorageError, TrainingError
from tatara.rl.protocol import Probe
from tatara.rl.record import RolloutKey


@pytest.fixture
def files(tmp_path):
    return write_files(tmp_path)


def test_a_wait_ends_when_it_should(files):
    async def run():
        buffer = local(files)
        await buffer.publish(0, bare(0))
        # Staleness 1 admits two batches of two groups of two, and not one group more.
        lease = await buffer.lease("worker", 0, 100, 0.0)
        assert [group.indices for group in lease.groups] == [(0, 1)] * 4
        begun = time.monotonic()
        assert (await buffer.lease("worker", 0, 100, 0.1)).groups == ()
        assert await buffer.lease_scoring("reward", 100, 0.1) == []
        assert (await buffer.batch(0, 0.1)).groups is None
        assert time.monotonic() - begun >= 0.3, "there was nothing, so the wait was waited"
        # New weights, rollouts and the end of the run cut a wait of minutes short.
        waiting = asyncio.ensure_future(buffer.lease("worker", 0, 100, 300.0))
        await asyncio.sleep(0)
        await buffer.publish(1, bare(1))
        assert (await asyncio.wait_for(waiting, 60)).newest == 1
        scoring = asyncio.ensure_future(buffer.lease_scoring("reward", 100, 300.0))
        await asyncio.sleep(0)
        group = lease.groups[0]
        await buffer.deliver("worker", [make_rollout(group.key(0), group.prompt, 0, "worker")])
        assert [rollout.key for _, rollout in await asyncio.wait_for(scoring, 60)] == [group.key(0)]
        ending = asyncio.gather(buffer.lease("worker", 1, 0, 300.0), buffer.lease_scoring("reward", 100, 300.0))
        await asyncio.sleep(0)
        await buffer.stop()
        lease, scoring = await asyncio.wait_for(ending, 60)
        assert lease.stop
        assert scoring == []

    asyncio.run(run())


def test_a_worker_that_loads_new_weights_while_it_waits_is_answered_by_what_it_then_holds(files):
    async def run():
        buffer = local(files)
        await buffer.publish(0, bare(0))
        first = await buffer.lease("worker", 0, 100, 0.0)
        # What staleness 1 lets version 0 begin is begun, and it is told of version 1: the next answer must be work.
        await buffer.publish(1, bare(1))
        assert (await buffer.lease("worker", 0, 100, 0.0)).newest == 1
        waiting = asyncio.ensure_future(buffer.lease("worker", 0, 100, 300.0))
        await asyncio.sleep(0)
        await buffer.acknowledge("other", 1, Probe(((-1.5,),)))
        await asyncio.sleep(0.05)
        assert not waiting.done(), "another worker's weights are not this one's"
        await buffer.acknowledge("worker", 1, Probe(((-1.5,),)))
        lease = await asyncio.wait_for(waiting, 60)
        assert [group.position for group in first.groups] == [0, 1, 2, 3]
        assert [(group.position, group.indices) for group in lease.groups] == [(4, (0, 1)), (5, (0, 1))]
        # Which version a group was begun with decides when it must be trained on.
        made = [make_rollout(group.key(0), group.prompt, 1, "worker") for group in lease.groups]
        await buffer.deliver("worker", made)
        assert buffer._book.state.groups["train", 0, 4].version == 1

    asyncio.run(run())


def test_who_asks_again_is_answered_once(files):
    async def run():
        buffer = local(files)
        await buffer.lease("other", 0, 100, 0.0)
        given_up = asyncio.ensure_future(buffer.lease("worker", 0, 100, 300.0, []))
        await asyncio.sleep(0)
        waiting = asyncio.ensure_future(buffer.lease("worker", 0, 100, 300.0, []))
        await asyncio.sleep(0)
        await buffer.release("other")
        assert (await asyncio.wait_for(given_up, 60)).groups == ()
        assert len((await asyncio.wait_for(waiting, 60)).groups) == 4

    asyncio.run(run())


def test_a_new_driver_takes_the_workers_of_the_former_one_for_dead(files):
    async def run():
        former = local(files, "first")
        await former.evaluate(0)
        await former.evaluate(0)
        lease = await former.lease("worker", 0, 5, 0.0)
        assert [(group.purpose, group.indices) for group in lease.groups] == [
            ("evaluate", (0,)),
            ("evaluate", (0,)),
            ("train", (0, 1)),
            ("train", (0,)),
        ]
        made = [make_rollout(group.key(i), group.prompt, 0) for group in lease.groups[:3] for i in group.indices]
        await former.deliver("worker", made)
        found = await former.lease_scoring("reward", 100, 0.0)
        await former.scored("reward", [make_score(rollout.key, 1.0) for _, rollout in found])
        await former.fail("a reason to end")
        with pytest.raises(TrainingError, match="a reason to end"):
            await former.batch(0, 0.0)
        former._book.close()
        buffer = local(files, "second")
        found = await buffer.status()
        assert found["workers"] == {}
        assert found["leases"] == []
        assert found["failed"] is None
        assert found["evaluations"][0]["pass@1"] == 1.0
        assert [note["kind"] for note in found["notes"]] == ["evaluation", "transcript", "transcript"]
        assert {note["source"] for note in found["notes"][1:]} == {"held-out"}
        lease = await buffer.lease("worker", 0, 100, 0.0)
        assert [(group.position, group.indices) for group in lease.groups] == [(1, (0, 1)), (2, (0, 1)), (3, (0, 1))]
        again = local(files, "third")
        with pytest.raises(StorageError, match="another process writes"):
            await again.status()

    asyncio.run(run())


def test_what_is_wrong_comes_back_as_one_line(files):
    async def run():
        buffer = local(files)
        with pytest.raises(TrainingError, match="'nobody' delivers, but never leased"):
            await buffer.deliver("nobody", [])
        group = (await buffer.lease("worker", 0, 2, 0.0)).groups[0]
        stranger = make_rollout(RolloutKey("train", 0, 77, 0), group.prompt, 0)
        with pytest.raises(TrainingError, match="position 77, which was never handed out"):
            await buffer.deliver("worker", [stranger])
        with pytest.raises(TrainingError, match="batch 3 was asked for, but the next one is 0"):
            await buffer.batch(3, 0.0)
        with pytest.raises(TrainingError, match="version 1 were published as version 2"):
            await buffer.publish(2, bare(1))
        with pytest.raises(TrainingError, match="batch 0 was not handed out"):
            await buffer.checkpointed(1)

    asyncio.run(run())


def test_evaluating_needs_a_configuration(files):
    buffer = local(files, config=CONFIG.model_copy(update={"held_out": None}), held_out=None)
    with pytest.raises(ConfigError, match="no held-out prompts are configured"):
        asyncio.run(buffer.evaluate(0))
