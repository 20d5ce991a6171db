"""The buffer as a real actor: workers in threads, clients that block, kills in between."""

import json
import os
import signal
import threading
import time

import pytest

from rl.buffer_cases import CONFIG, write_files
from rl.ledger_world import make_rollout, make_score
from tatara.errors import EngineError, TrainingError
from tatara.rl.protocol import Probe, PublishedWeights


@pytest.fixture(scope="module")
def ray():
    import ray

    from tatara import cluster

    cluster.connect(address="local", num_cpus=2)
    yield ray
    cluster.disconnect()


@pytest.fixture
def files(tmp_path):
    return write_files(tmp_path)


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


@pytest.mark.ray
def test_a_client_gets_its_answer_through_a_kill_and_is_told_of_the_end(ray, start, files):
    from tatara.rl.client import BufferClient

    buffer = start()
    client = BufferClient(f"buffer-{files.name}", 120.0)
    before = client.status()
    answers = []
    asking = threading.Thread(target=lambda: answers.append(client.batch(0, 5.0)))
    asking.start()
    kill(ray, buffer)
    asking.join(100)
    assert [reply.groups for reply in answers] == [None]
    assert client.status()["pid"] != before["pid"]
    with pytest.raises(TrainingError, match="batch 3 was asked for, but the next one is 0"):
        client.batch(3, 0.0)
    # A stopped process does not close its connections: only the time tells.
    pid = client.status()["pid"]
    os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(EngineError, match=r"the buffer did not answer `status` within 0.5 s: it cannot be"):
            BufferClient(buffer, 0.5).status()
    finally:
        os.kill(pid, signal.SIGCONT)
    ray.kill(buffer)
    with pytest.raises(EngineError, match=r"the buffer is dead for good, so `status` gets no answer: .*ray.kill"):
        client.status()
    with pytest.raises(EngineError, match="there is no buffer 'none' in the cluster"):
        BufferClient("none", 1.0)


@pytest.mark.ray
def test_a_link_hands_over_answers_through_a_kill_and_what_went_wrong(ray, start, files):
    import queue

    from tatara.rl.buffer_link import BufferLink

    buffer = start()
    events, answers = queue.SimpleQueue(), []
    link = BufferLink(f"buffer-{files.name}", 120.0, events)
    link.ask("batch", 0, 5.0, answered=answers.append, wait=5.0)
    kill(ray, buffer)
    assert link.asking("batch")
    while not answers:
        link.check()
        events.get(timeout=120)()
    assert answers[0].groups is None
    assert not link.asking("batch")
    link.ask("batch", 3, 0.0, answered=answers.append)
    with pytest.raises(TrainingError, match="batch 3 was asked for, but the next one is 0"):
        events.get(timeout=120)()
    ray.kill(buffer)
    link.ask("status", answered=answers.append)
    with pytest.raises(EngineError, match="the buffer is dead for good"):
        events.get(timeout=120)()
