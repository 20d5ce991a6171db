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

import psutil
import pytest

import tatara.cluster
from posttrain.posttrain_cases import arithmetic, render, tokenizer_of
from rl.grpo_cases import BATCHES, GROUPS, SIZE, grpo, lineage, write_policy
from tatara.artifact import Artifact
from tatara.errors import TrainingError

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def root(tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A store with a policy and prompts; the cluster is connected."""
    root = tmp_path_factory.mktemp("grpo")
    tokens = render(root, arithmetic(root), tokenizer_of(root, tokenizer))
    tatara.cluster.connect(num_cpus=2)
    write_policy(root, tokens)
    yield root
    tatara.cluster.disconnect()


@pytest.fixture(scope="module")
def learned(root: Path) -> Artifact:
    return grpo(root, "plain", staleness=0, steps=12)


def test_the_policy_learns_what_is_rewarded(learned: Artifact) -> None:
    """Twelve batches are enough to see where it goes: what is rewarded can be had by any token."""
    batches = lineage(learned)
    assert len(batches) == 12
    evaluations = json.loads((learned.local("rl") / "evaluations.json").read_text())
    assert evaluations["12"]["reward"] > evaluations["0"]["reward"] + 0.1
    assert learned.metrics["batches"] == 12


def test_lineage_says_which_prompts_made_each_batch(learned: Artifact) -> None:
    positions = [position for batch in lineage(learned) for position in batch["positions"]]
    assert sorted(positions) == list(range(12 * GROUPS))


def test_synchronous_rollouts_are_never_stale(learned: Artifact) -> None:
    for number, batch in enumerate(lineage(learned)):
        assert batch["batch"] == number
        assert set(batch["staleness"]) == {"0"}
        assert sum(batch["staleness"].values()) == GROUPS * SIZE


def _worker(word: str) -> list[psutil.Process]:
    """Processes of the cluster's actors and ranks whose name holds a word."""
    found = []
    for process in psutil.Process(os.getpid()).children(recursive=True):
        try:
            if word in " ".join(process.cmdline()):
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


def test_any_process_may_die(root: Path) -> None:
    """Rollout worker, buffer, reward worker and learner are killed in turn: no prompt is lost or trained on twice."""
    killed: list[str] = []
    over = threading.Event()

    def kill() -> None:
        for word in ("ray::RolloutWorker", "ray::Buffer", "ray::RewardWorker", "ray::RayTrainWorker"):
            # Only what is at work.
            if not _until(lambda word=word: _worker(word), over):
                return
            time.sleep(1.0)
            for process in _worker(word)[:1]:
                process.send_signal(signal.SIGKILL)
                killed.append(word)
            over.wait(2.0)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    try:
        made = grpo(root, "killed", staleness=1, steps=30)
    finally:
        over.set()
        thread.join()
    assert len(killed) == 4
    batches = lineage(made)
    positions = [position for batch in batches for position in batch["positions"]]
    assert [batch["batch"] for batch in batches] == list(range(30))
    assert sorted(positions) == list(range(30 * GROUPS))
    assert all(int(age) <= 1 for batch in batches for age in batch["staleness"])
    assert made.metrics["worker_deaths"] >= 2


def _until(condition: Callable[[], object], over: threading.Event) -> bool:
    while not condition():
        if over.wait(0.1):
            return False
    return True


def test_a_killed_driver_goes_on_where_it_was(root: Path) -> None:
    command = [sys.executable, str(Path(__file__).with_name("grpo_cases.py")), str(root), "driver"]
    changes = {"staleness": 1, "steps": BATCHES, "checkpoint_interval": 2}
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    driver = subprocess.Popen([*command, json.dumps(changes)], env=environment, stdout=subprocess.DEVNULL)
    try:
        work = root / "checkpoint" / ".work"
        deadline = time.monotonic() + 240
        while not list(work.glob("**/step-*/manifest.json")) and driver.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.1)
    finally:
        driver.kill()
        driver.wait()
    made = grpo(root, "driver", **changes)
    positions = [position for batch in lineage(made) for position in batch["positions"]]
    assert sorted(positions) == list(range(BATCHES * GROUPS))


def test_a_reward_that_always_fails_ends_the_run_and_is_named(root: Path) -> None:
    broken = {"broken": {"kind": "python", "function": f"{Path(__file__).with_name('grpo_rewards.py')}:raises"}}
    with pytest.raises(TrainingError, match=r"broken.*no such luck"):
        grpo(root, "failing", rewards=broken, staleness=0, scoring={"error_window": 10})
