"""The crew with real actors that die, at a real buffer."""

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from rl.buffer_cases import CONFIG, write_files
from tatara.errors import TrainingError
from tatara.rl.crew import Crew, Role

TESTS = str(Path(__file__).parents[1])


class Mortal:
    """Dies in `run` as a process does that crashes in foreign code, maybe after it has finished something."""

    def __init__(self, finishes: int) -> None:
        self._finished, self._finishes = 0, finishes
        self._asked = threading.Event()

    def run(self) -> None:
        self._finished = self._finishes
        if self._finishes:
            self._asked.wait(100)
            # The crew looks twice a second for the answer.
            time.sleep(1.2)
        print("Illegal instruction in kernel 7", file=sys.stderr, flush=True)
        os._exit(13)

    def status(self) -> dict[str, int]:
        self._asked.set()
        return {"rollouts": self._finished}


class Frozen(Mortal):
    """Stops in `run` as a process does that hangs in foreign code; whoever comes after it works."""

    def run(self) -> None:
        if self._finishes:
            self._finished = self._finishes
            time.sleep(100)
        os.kill(os.getpid(), signal.SIGSTOP)


@pytest.fixture(scope="module")
def ray():
    import ray

    from tatara import cluster

    cluster.connect(address="local", num_cpus=2)
    yield ray
    cluster.disconnect()


@pytest.fixture
def client(ray, tmp_path):
    from tatara.rl.buffer import start_buffer
    from tatara.rl.client import BufferClient

    files = write_files(tmp_path)
    more = (files / "state", "first", files / "held_out.jsonl")
    buffer = start_buffer(tmp_path.name, CONFIG, files / "prompts.jsonl", *more)
    yield BufferClient(buffer, 120.0)
    ray.kill(buffer)


def end_of(ray, client, finishes: int, max_failures: int) -> tuple[str, Crew]:
    """The line that a run with one such worker ends with."""
    options = {"num_cpus": 0, "max_concurrency": 2, "runtime_env": {"env_vars": {"PYTHONPATH": TESTS}}}
    role = Role("rollout", 1, lambda _: ray.remote(Mortal).options(**options).remote(finishes))
    crew = Crew((role,), client, max_failures, lambda _: None)
    with crew, pytest.raises(TrainingError) as caught:
        client.batch(0, 200.0)
    return str(caught.value), crew


@pytest.mark.ray
def test_a_worker_that_cannot_start_ends_the_run_soon_with_what_it_said(ray, client):
    line, crew = end_of(ray, client, finishes=0, max_failures=1000)
    assert "rollout-0 died 3 times before it served: " in line
    assert "it said last: Illegal instruction in kernel 7 (log: " in line
    assert "\n" not in line
    assert "kernel 7" in Path(line.rpartition("(log: ")[2].partition(")")[0]).read_text()
    assert [incident["worker"] for incident in crew.incidents] == ["rollout-0.1", "rollout-0.2", "rollout-0.3"]


@pytest.mark.ray
def test_a_worker_that_served_may_die_as_often_as_is_allowed(ray, client):
    line, crew = end_of(ray, client, finishes=5, max_failures=3)
    assert "workers died 4 times, more than max_worker_failures allows; last rollout-0.4: " in line
    assert crew.failures == 4


@pytest.mark.ray
def test_a_worker_that_hangs_is_ended_and_another_takes_its_place(ray, client):
    options = {"num_cpus": 0, "max_concurrency": 2, "runtime_env": {"env_vars": {"PYTHONPATH": TESTS}}}
    lives: list[str] = []

    def start(name: str):
        lives.append(name)
        return ray.remote(Frozen).options(**options).remote(len(lives) - 1)

    with Crew((Role("rollout", 1, start),), client, 5, lambda _: None, silence=3.0) as crew:
        deadline = time.monotonic() + 100
        while crew.statuses.get("rollout-0.2", {}).get("rollouts") != 1:
            assert time.monotonic() < deadline, crew.incidents
            time.sleep(0.1)
    assert lives == ["rollout-0.1", "rollout-0.2"]
    assert [incident["reason"] for incident in crew.incidents] == ["it did not answer for worker_timeout=3 s"]
