"""The ``grpo`` stage on a real cluster: real engines, real trainer, and what kills cannot change."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

import tatara.cluster
from posttrain.posttrain_cases import arithmetic, render, tokenizer_of
from rl.grpo_cases import BATCHES, GROUPS, PROMPTS, REWARDS, SIZE, events, grpo, write_policy
from rl.grpo_lineage import faults, lineage
from tatara.artifact import Artifact
from tatara.errors import TrainingError

# Three starts of the whole loop in one test; on a busy machine each takes minutes.
pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]

KILLED = ("RolloutWorker", "Buffer", "RewardWorker", "RayTrainWorker")
BETWEEN = 3
"""Batches that are trained between two kills."""
LONGEST_SECONDS = 300


@pytest.fixture(scope="module")
def root(tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A store with a policy and prompts; the cluster is connected."""
    root = tmp_path_factory.mktemp("grpo")
    tokens = render(root, arithmetic(root, train=PROMPTS), tokenizer_of(root, tokenizer))
    tatara.cluster.connect(num_cpus=2)
    write_policy(root, tokens)
    yield root
    tatara.cluster.disconnect()


@pytest.fixture(scope="module")
def learned(root: Path) -> Artifact:
    return grpo(root, "plain", staleness=0)


def test_every_version_that_was_asked_for_is_evaluated(learned: Artifact) -> None:
    evaluations = json.loads((learned.local("rl") / "evaluations.json").read_text())
    assert sorted(map(int, evaluations)) == [0, 3, BATCHES]
    assert all(0 <= found["pass@1"] <= 1 and found["groups"] == 6 for found in evaluations.values())
    assert learned.metrics["batches"] == BATCHES
    assert learned.metrics["worker_deaths"] == 0


def test_lineage_says_which_prompts_made_each_batch(learned: Artifact) -> None:
    positions = [position for batch in lineage(learned.local()) for position in batch["positions"]]
    assert sorted(positions) == list(range(BATCHES * GROUPS))


def test_without_staleness_every_rollout_is_of_the_version_that_it_trains(learned: Artifact) -> None:
    for batch in lineage(learned.local()):
        assert batch["versions"] == [[[batch["batch"]] * 2] * SIZE] * GROUPS


def test_rollout_worker_buffer_reward_worker_and_learner_may_die_in_one_run(root: Path) -> None:
    steps = BETWEEN * (len(KILLED) + 2)
    with _Killer(root, "killed") as killer:
        made = grpo(root, "killed", staleness=1, steps=steps)
    assert killer.killed == list(KILLED)
    assert _faults(made, steps) == []
    # The learner's rank is Ray Train's to start again, the buffer Ray's.
    assert made.metrics["worker_deaths"] == 2
    assert made.metrics["restarts"] == 1
    assert {path.name for path in made.local().iterdir()} >= {"model.json", "tokenizer", "rl"}


def test_a_killed_driver_goes_on_where_it_was(root: Path) -> None:
    steps = 10
    changes = {"staleness": 1, "steps": steps}
    _start_and_kill(root, changes, lambda: _trained(root, "driver") >= steps // 2)
    made = grpo(root, "driver", **changes)
    assert _faults(made, steps) == []
    evaluations = json.loads((made.local("rl") / "evaluations.json").read_text())
    assert sorted(map(int, evaluations)) == [0, 3, 6, 9, 10]
    assert made.metrics["pass@1"] == evaluations["10"]["pass@1"]


def test_a_reward_that_always_fails_ends_the_run_and_is_named(root: Path) -> None:
    broken = {"mine": {"kind": "python", "function": f"{REWARDS}:broken"}}
    with pytest.raises(TrainingError, match=r"mine.*no such luck"):
        grpo(root, "failing", rewards=broken, staleness=0, scoring={"error_window": 10})
    assert _trained(root, "failing") == 0


def _faults(made: Artifact, steps: int) -> list[str]:
    return faults(made.local(), batches=steps, groups=GROUPS, size=SIZE, staleness=1, prompts=PROMPTS)


def _trained(root: Path, name: str) -> int:
    """Batches that were trained, counted again where a restarted learner trained them again."""
    return sum(event["kind"] == "rollout_batch" for event in events(root, name))


def _start_and_kill(root: Path, changes: dict[str, Any], when: Callable[[], bool]) -> None:
    """Run the stage in a process of its own, with a cluster of its own, and kill it."""
    command = [sys.executable, str(Path(__file__).with_name("grpo_cases.py")), str(root), "driver", json.dumps(changes)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    environment.pop("RAY_ADDRESS", None)
    driver = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    try:
        assert _until(lambda: when() or driver.poll() is not None)
    finally:
        driver.kill()
        driver.wait()
    assert driver.returncode == -signal.SIGKILL


def _until(condition: Callable[[], object], over: Callable[[], bool] = lambda: False) -> bool:
    deadline = time.monotonic() + LONGEST_SECONDS
    while not condition():
        if over() or time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


class _Killer:
    """Kills a process of each kind in turn, each after some batches have been trained since the last."""

    def __init__(self, root: Path, name: str) -> None:
        self._root, self._name = root, name
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._kill, daemon=True)
        self.killed: list[str] = []

    def __enter__(self) -> "_Killer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _kill(self) -> None:
        due = BETWEEN
        for word in KILLED:
            if not _until(lambda due=due: _trained(self._root, self._name) >= due, self._over.is_set):
                return
            for process in _processes(word)[:1]:
                process.kill()
                self.killed.append(word)
            due = _trained(self._root, self._name) + BETWEEN


def _processes(word: str) -> list[psutil.Process]:
    """Those of this process's own cluster that run an actor of a class."""
    found = []
    for process in psutil.Process(os.getpid()).children(recursive=True):
        try:
            if " ".join(process.cmdline()).startswith(f"ray::{word}"):
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found
