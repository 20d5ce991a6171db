"""The pretraining stage on a real Ray cluster: what it makes, and what kills cannot change."""

import functools
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import tatara.cluster
from tatara.artifact import Draft, Store
from tatara.errors import TrainingError
from tatara.train.task import read_losses
from train.pretrain_driver import pretrain
from train.tokens_cases import VOCABULARY, write_tokens

pytestmark = pytest.mark.ray

SETTINGS = {
    "model.num_layers": 2,
    "model.hidden_size": 64,
    "model.ffn_hidden_size": 96,
    "steps": 120,
    "global_batch_size": 8,
    "micro_batch_size": 4,
    "validation_interval": 50,
    "validation_sequences": 11,
    "checkpoint_interval": 20,
}


@pytest.fixture(scope="module")
def cluster():
    tatara.cluster.connect(num_cpus=2)
    yield
    tatara.cluster.disconnect()


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    return write_tokens(tmp_path_factory.mktemp("pretrain") / "tokens")


@pytest.fixture
def root(tokens, tmp_path):
    """An artifact root that holds tokens and nothing else."""
    return make_root(tmp_path / "root", tokens)


def make_root(path, tokens):
    attempt = Store(path).begin(Draft(kind="tokens", name="t", version=1, stage="tokenize", fingerprint="0" * 64))
    shutil.copytree(tokens, attempt.path, dirs_exist_ok=True)
    attempt.commit({}, 1.0)
    return path


@pytest.fixture(scope="module")
def undisturbed(cluster, tokens, tmp_path_factory):
    return pretrain(str(make_root(tmp_path_factory.mktemp("undisturbed") / "root", tokens)), **SETTINGS)


def losses(artifact):
    return (artifact.local("losses.jsonl")).read_text()


def series(artifact, name):
    rows = [json.loads(line) for line in artifact.local("_stage/metrics.jsonl").read_text().splitlines()]
    return [(row["step"], row[name]) for row in rows if name in row]


def events(root):
    found = list(Path(root).glob("work/pretrain-*/events.jsonl"))
    lines = found[0].read_text().splitlines() if found else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def wait_for(what, timeout=240.0):
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        answer = what()
        if answer:
            return answer
        time.sleep(0.02)
    raise AssertionError("what the test waits for did not happen")


def test_the_artifact_holds_what_export_and_people_need(undisturbed):
    payload = {file.path for file in undisturbed.files()}
    expected = {"model/.metadata", "model/common.pt", "model.json", "tokenizer/tokenizer.json", "training.json"}
    assert expected | {"losses.jsonl"} <= payload
    assert undisturbed.read_json("model.json")["vocab_size"] == VOCABULARY
    training = undisturbed.read_json("training.json")
    assert (training["step"], training["sequences"], training["layout"]["dp"]) == (120, 960, 2)
    records = list(read_losses(undisturbed.local("losses.jsonl")))
    assert [record["step"] for record in records if "loss" in record] == list(range(1, 121))
    assert [record["step"] for record in records if "validation_loss" in record] == [50, 100, 120]
    metrics = undisturbed.metrics
    assert metrics["validation_loss"] == records[-1]["validation_loss"]
    assert metrics["log_vocabulary"] == pytest.approx(math.log(VOCABULARY), abs=1e-4)
    assert metrics["loss_drop"] > 2
    assert metrics["tokens_per_second"] > 0
    assert metrics["seconds_to_first_step"] > 0
    assert metrics["restarts"] == 0


def test_the_series_of_the_run_are_recorded(undisturbed):
    for name in ("loss", "tokens_per_second", "learning_rate", "gradient_norm"):
        assert [step for step, _ in series(undisturbed, f"train.{name}")] == list(range(1, 121))
    assert [step for step, _ in series(undisturbed, "train.validation_loss")] == [50, 100, 120]


@pytest.mark.slow
def test_killed_workers_change_nothing(undisturbed, root):
    chosen = random.Random(7)
    killed = []

    def running(number, reach):
        """The last start, once it is that many steps past the number-th restart."""
        seen = events(root)
        starts = [i for i, event in enumerate(seen) if event["kind"] in ("started", "resumed")]
        if len(starts) <= number:
            return None
        steps = [event["step"] for event in seen[starts[-1] :] if event["kind"] == "step"]
        start = seen[starts[-1]]
        return start if steps and steps[-1] >= start["step"] + reach else None

    def kill_twice():
        for number in range(2):
            start = wait_for(functools.partial(running, number, chosen.randint(5, 30)))
            os.kill(chosen.choice(start["workers"])["pid"], signal.SIGKILL)
            killed.append(start["step"])

    thread = threading.Thread(target=kill_twice, daemon=True)
    thread.start()
    disturbed = pretrain(str(root), **SETTINGS)
    thread.join(1)
    assert len(killed) == 2
    assert disturbed.metrics["restarts"] == 2
    assert losses(disturbed) == losses(undisturbed)
    assert series(disturbed, "train.loss") == series(undisturbed, "train.loss")
    assert disturbed.metrics["validation_loss"] == undisturbed.metrics["validation_loss"]


@pytest.mark.slow
def test_a_rank_that_stands_still_is_named_and_the_run_goes_on(undisturbed, root):
    def stop():
        started = wait_for(lambda: next((event for event in events(root) if event["kind"] == "started"), None))
        wait_for(lambda: any(event["kind"] == "step" and event["step"] >= 25 for event in events(root)))
        os.kill(started["workers"][1]["pid"], signal.SIGSTOP)

    thread = threading.Thread(target=stop, daemon=True)
    thread.start()
    hanging = pretrain(str(root), **SETTINGS, **{"watch.hang_seconds": 10})
    thread.join(1)
    assert hanging.metrics["restarts"] == 1
    assert losses(hanging) == losses(undisturbed)
    (hang,) = hanging.read_json("_stage/report.json")["hangs"]
    assert "rank 1 (pid" in hang["message"]
    assert "is stopped (T)" in hang["message"]
    # What counts as lost is compared with known times elsewhere; here it depends on what else the machine does.
    assert 0 < hanging.metrics["effective_training_time"] < 1


@pytest.mark.slow
def test_a_killed_driver_continues_from_its_checkpoint(undisturbed, root):
    command = [sys.executable, str(Path(__file__).with_name("pretrain_driver.py")), str(root)]
    command += [f"{name}={value}" for name, value in SETTINGS.items()]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    driver = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: any(event["kind"] == "checkpoint" for event in events(root)))
        workers = next(event for event in events(root) if event["kind"] == "started")["workers"]
    finally:
        driver.kill()
        driver.wait()
    # Nobody may go on writing where the next run writes.
    wait_for(lambda: not any(Path(f"/proc/{worker['pid']}").exists() for worker in workers), timeout=60)
    assert Store(root).versions("checkpoint", "t") == []
    newest = max((Path(root).glob("work/pretrain-*/checkpoints/step-*")), key=lambda path: path.name)
    first = next(path for path in (newest / "model").iterdir() if path.suffix == ".distcp")
    interrupted_at = int(newest.name.split("-")[1])
    if interrupted_at > 20:
        # The newest one is damaged as well: the one before it will do.
        first.write_bytes(first.read_bytes()[:-1])
    continued = pretrain(str(root), **SETTINGS)
    assert losses(continued) == losses(undisturbed)


def test_an_interrupt_ends_the_run_and_its_workers(cluster, root):
    def interrupt():
        wait_for(lambda: any(event["kind"] == "step" for event in events(root)))
        os.kill(os.getpid(), signal.SIGINT)

    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        pretrain(str(root), **SETTINGS | {"steps": 100_000})
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    workers = next(event for event in events(root) if event["kind"] == "started")["workers"]
    wait_for(lambda: not any(Path(f"/proc/{worker['pid']}").exists() for worker in workers), timeout=60)
    assert Store(root).versions("checkpoint", "t") == []


def test_a_loss_that_is_not_a_number_ends_the_run_at_once(cluster, root):
    broken = SETTINGS | {"optimizer.learning_rate": 1e30, "optimizer.clip_norm": 0, "schedule.warmup_steps": 0}
    with pytest.raises(TrainingError, match=r"the loss at step \d+ is .*lower optimizer.learning_rate") as caught:
        pretrain(str(root), **broken)
    assert "\n" not in str(caught.value)
    assert Store(root).versions("checkpoint", "t") == []
    assert len([event for event in events(root) if event["kind"] == "started"]) == 1


def test_a_cluster_that_can_never_fit_is_told_apart(cluster, root):
    from tatara.errors import ClusterError

    with pytest.raises(ClusterError, match="pretrain"):
        pretrain(str(root), **SETTINGS, cpus_per_worker=64)
