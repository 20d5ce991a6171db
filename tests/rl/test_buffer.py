"""The buffer as a real actor: clients in threads, kills in between; and its book without Ray."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from rl.ledger_world import make_prompts, make_rollout, make_score, make_stage
from tatara.errors import ConfigError, DataError, StorageError, TrainingError
from tatara.rl.curriculum import HeldOut
from tatara.rl.ledger.book import LINEAGE, Book, BufferConfig
from tatara.rl.prompts import write_prompts
from tatara.rl.protocol import Probe, PublishedWeights
from tatara.rl.record import RolloutKey

PROMPTS = make_prompts(9)
HELD_OUT = make_prompts(2, "held-out")
CONFIG = BufferConfig(
    stages=(make_stage(),), batches=6, staleness=1, held_out=HeldOut(max_response_tokens=4), transcripts_every=2
)


@pytest.fixture(scope="module")
def ray():
    import ray

    from tatara import cluster

    cluster.connect(address="local", num_cpus=2)
    yield ray
    cluster.disconnect()


@pytest.fixture
def files(tmp_path):
    write_prompts(tmp_path / "prompts.jsonl", PROMPTS)
    write_prompts(tmp_path / "held_out.jsonl", HELD_OUT)
    return tmp_path


@pytest.fixture
def start(ray, files):
    """Starts the buffer of a run, and ends it."""
    from tatara.rl.buffer import start_buffer

    started = []

    def begin():
        name, held_out = f"buffer-{files.name}", files / "held_out.jsonl"
        started.append(start_buffer(name, CONFIG, files / "prompts.jsonl", files / "state", "first", held_out))
        return started[-1]

    yield begin
    for each in started:
        ray.kill(each)


def kill(ray, buffer) -> None:
    os.kill(ray.get(buffer.status.remote(), timeout=60)["pid"], signal.SIGKILL)


def generate(ray, buffer, worker, version, held=()) -> int:
    """One round of a rollout worker and a reward worker; how many rollouts were made."""
    lease = ray.get(buffer.lease.remote(worker, version, 3, 0.2, list(held)), timeout=60)
    made = [
        make_rollout(group.key(index), group.prompt, version, worker)
        for group in lease.groups
        for index in group.indices
    ]
    if made:
        ray.get(buffer.deliver.remote(worker, made), timeout=60)
    score(ray, buffer, f"reward of {worker}")
    return len(made)


def score(ray, buffer, worker) -> int:
    found = ray.get(buffer.lease_scoring.remote(worker, 100, 0.0, []), timeout=60)
    assert all(rollout.prompt_ids == prompt.token_ids for prompt, rollout in found)
    scores = [make_score(rollout.key, float(rollout.key.index)) for _, rollout in found]
    if scores:
        ray.get(buffer.scored.remote(worker, scores), timeout=60)
    return len(scores)


def weights_of(ray, version) -> PublishedWeights:
    return PublishedWeights(version, (ray.put(b"tensors"),), 1, 7, ((1, 2),))


@pytest.mark.ray
def test_a_run_with_two_workers_survives_kills_of_the_buffer(ray, start, files):
    buffer = start()
    over = threading.Event()
    faults = []

    def work(name):
        version = 0
        try:
            while not over.is_set():
                generate(ray, buffer, name, version)
                published = ray.get(buffer.weights.remote(), timeout=60)
                if published is not None and published.version != version:
                    assert ray.get(published.refs[0], timeout=60) == b"tensors"
                    version = published.version
                    ray.get(buffer.acknowledge.remote(name, version, Probe(((-1.5,),))), timeout=60)
        except Exception as error:
            faults.append(error)

    threads = [threading.Thread(target=work, args=(f"worker-{number}",)) for number in range(2)]
    for thread in threads:
        thread.start()
    batches, asked_again, republished = {}, [], 0
    deadline = time.monotonic() + 240
    while len(batches) < 6 and not faults:
        assert time.monotonic() < deadline, ray.get(buffer.status.remote(), timeout=60)["waiting_for"]
        number = len(batches)
        reply = ray.get(buffer.batch.remote(number, 1.0), timeout=60)
        if reply.republish:
            republished += 1
            ray.get(buffer.publish.remote(number, weights_of(ray, number)), timeout=60)
        if reply.groups is None:
            continue
        batches[number] = reply.groups
        if number in (1, 3):
            kill(ray, buffer)
            asked_again.append(ray.get(buffer.batch.remote(number, 0.0), timeout=60).groups == reply.groups)
        ray.get(buffer.publish.remote(number + 1, weights_of(ray, number + 1)), timeout=60)
    over.set()
    for thread in threads:
        thread.join(60)
    assert not faults
    assert asked_again == [True, True]
    assert republished == 0, "after each kill the next version was published before another batch was asked for"
    positions = [group.position for groups in batches.values() for group in groups]
    assert sorted(positions) == list(range(12))
    for number, groups in batches.items():
        assert [group.position for group in groups] == sorted(group.position for group in groups)
        assert all(0 <= number - rollout.first_version <= 1 for group in groups for rollout in group.rollouts)
        assert all(group.rewards == (0.0, 1.0) for group in groups)
    found = ray.get(buffer.status.remote(), timeout=60)
    assert found["positions"] == 12
    assert sum(found["staleness"].values()) == 24
    assert [note["batch"] for note in found["notes"] if note["kind"] == "batch"] == list(range(6))
    shown = [note for note in found["notes"] if note["kind"] == "transcript"]
    assert {note["batch"] for note in shown} == {0, 2, 4}
    assert shown[0]["messages"][0]["content"].endswith("+ 1?")
    json.dumps(found)
    assert ray.get(buffer.status.remote(found["noted"]), timeout=60)["notes"] == []


@pytest.mark.ray
def test_lost_weights_are_asked_for_once_and_probes_survive(ray, start):
    buffer = start()
    ray.get(buffer.publish.remote(1, weights_of(ray, 1)), timeout=60)
    ray.get(buffer.acknowledge.remote("worker", 1, Probe(((-0.5, -0.1),))), timeout=60)
    kill(ray, buffer)
    assert ray.get(buffer.weights.remote(), timeout=60) is None
    assert ray.get(buffer.probes.remote(1), timeout=60) == {"worker": Probe(((-0.5, -0.1),))}
    # Not even a long wait keeps the question back: workers may be waiting for these weights.
    begun = time.monotonic()
    assert ray.get(buffer.batch.remote(0, 300.0), timeout=100).republish
    assert time.monotonic() - begun < 300
    ray.get(buffer.publish.remote(1, weights_of(ray, 1)), timeout=60)
    assert not ray.get(buffer.batch.remote(0, 0.0), timeout=60).republish
    assert ray.get(buffer.weights.remote(), timeout=60).version == 1
    with pytest.raises(TrainingError, match="'nobody' delivers, but never leased"):
        ray.get(buffer.deliver.remote("nobody", []), timeout=60)


def local(files, attempt="first", config=CONFIG, **more):
    """The same buffer in this process: what it says does not depend on Ray."""
    from tatara.rl.buffer import Buffer

    more = {"held_out": str(files / "held_out.jsonl")} | more
    return Buffer(config.dump(), str(files / "prompts.jsonl"), str(files / "state"), attempt, **more)


def bare(version) -> PublishedWeights:
    return PublishedWeights(version, (), 0, 0, ((1, 2),))


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


def work(book: Book, batches: int) -> None:
    """Run a book forward without an actor."""
    from tatara.rl.ledger import checks, plan

    while book.state.next_batch < batches:
        state, rules, version = book.state, book.settings, book.state.next_batch
        book.commit({"event": "publish", "version": version})
        event = plan.lease(state, rules, "worker", version, 100, 0.0)
        book.commit(event)
        for purpose, turn, position, indices in event["groups"] if event else ():
            prompt = book.prompts[state.groups[purpose, turn, position].prompt]
            made = [make_rollout(RolloutKey(purpose, turn, position, i), prompt, version) for i in indices]
            book.commit(checks.deliver(state, "worker", made, book.prompts, book.held_out, 0.0))
            book.commit(checks.score(state, "worker", [make_score(r.key, float(r.key.index)) for r in made], 0.0))
        book.commit(plan.batch(state, rules, version, 0.0), sync=True)


def test_a_checkpoint_makes_the_journal_small_and_keeps_the_lineage(tmp_path):
    book = Book(tmp_path, CONFIG, PROMPTS, HELD_OUT)
    work(book, 4)
    before = book.journal.bytes
    lines = (tmp_path / LINEAGE).read_text() if (tmp_path / LINEAGE).exists() else ""
    assert lines == ""
    book.checkpointed(3)
    assert book.journal.bytes < before
    state = book.state
    assert list(state.batches) == [3]
    book.close()
    # A line that was cut short, and one that came before the death of its writer: neither is there twice.
    with open(tmp_path / LINEAGE, "a") as file:
        file.write('{"batch": 3, "pos')
    book = Book(tmp_path, CONFIG, PROMPTS, HELD_OUT)
    assert book.state == state
    work(book, 6)
    book.checkpointed(6)
    book.close()
    lines = [json.loads(line) for line in (tmp_path / LINEAGE).read_text().splitlines()]
    assert [line["batch"] for line in lines] == list(range(6))
    assert [position for line in lines for position in line["positions"]] == list(range(12))
    assert all(source == "sums" and name.startswith("sums-") for line in lines for source, name in line["prompts"])
    assert lines[5]["versions"] == [[[4, 4], [4, 4]], [[4, 4], [4, 4]]]


def test_a_process_killed_at_any_moment_goes_on_with_the_same_batches(tmp_path):
    program = f"""
import sys
sys.path[:0] = {sys.path!r}
from rl.test_buffer import CONFIG, HELD_OUT, PROMPTS, work
from tatara.rl.ledger.book import Book
book = Book({str(tmp_path)!r}, CONFIG, PROMPTS, HELD_OUT)
for number in range(6):
    work(book, number + 1)
    print(number, [group.position for group in book.state.batches[number]], flush=True)
"""
    seen = {}
    for batches in (1, 3, 6):
        process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
        for _ in range(batches):
            number, positions = process.stdout.readline().split(" ", 1)
            assert seen.setdefault(number, positions) == positions, "a batch changed"
        process.kill()
        process.communicate()
    assert sorted(place for line in seen.values() for place in json.loads(line)) == list(range(12))


def test_a_journal_of_another_run_is_refused(tmp_path):
    book = Book(tmp_path, CONFIG, PROMPTS, HELD_OUT)
    work(book, 1)
    book.close()
    others = (
        (CONFIG.model_copy(update={"seed": 1}), PROMPTS, HELD_OUT),
        (CONFIG, PROMPTS[1:], HELD_OUT),
        (CONFIG, PROMPTS, HELD_OUT[1:]),
    )
    for config, prompts, held_out in others:
        with pytest.raises(StorageError, match="is of another run"):
            Book(tmp_path, config, prompts, held_out)
    longer = Book(tmp_path, CONFIG.model_copy(update={"batches": 9}), PROMPTS, HELD_OUT)
    assert longer.state.next_batch == 1
    longer.close()


def test_a_book_can_begin_where_a_checkpoint_left_off(tmp_path):
    whole = Book(tmp_path / "whole", CONFIG, PROMPTS, HELD_OUT)
    work(whole, 6)
    rest = Book(tmp_path / "rest", CONFIG, PROMPTS, HELD_OUT, first_batch=4)
    rest.close()
    rest = Book(tmp_path / "rest", CONFIG, PROMPTS, HELD_OUT)
    work(rest, 6)
    for number in (4, 5):
        found = [[(g.position, g.prompt) for g in book.state.batches[number]] for book in (whole, rest)]
        assert found[0] == found[1]
    whole.close()
    rest.close()


def test_an_evaluation_without_prompts_is_refused(tmp_path):
    with pytest.raises(DataError, match="held_out is configured, but there are no held-out prompts"):
        Book(tmp_path, CONFIG, PROMPTS)


def test_evaluating_needs_a_configuration(files):
    buffer = local(files, config=CONFIG.model_copy(update={"held_out": None}), held_out=None)
    with pytest.raises(ConfigError, match="no held-out prompts are configured"):
        asyncio.run(buffer.evaluate(0))
