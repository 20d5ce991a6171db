"""What the driver makes of the trainer's events."""

from types import SimpleNamespace

import pytest

from tatara.train.task import EVENTS
from tatara.train.watch.events import EventReader, EventWriter
from tatara.train.watch.follower import Follower


class Stage:
    """Keeps what a follower tells a stage."""

    def __init__(self, work):
        self.work, self.lines, self.shown, self.reports, self.series = work, [], [], {}, {}

    def log(self, message):
        self.lines.append(message)

    def progress(self, done, total, unit, **figures):
        self.shown.append((done, total, figures))

    def metrics(self, step, **values):
        for name, value in values.items():
            self.series.setdefault(name, []).append((step, value))

    def report(self, key, value):
        self.reports[key] = value


CONFIG = SimpleNamespace(steps=100, max_failures=8)
STEP = {"loss": 3.0, "learning_rate": 1e-3, "gradient_norm": 1.0, "tokens": 500, "seconds": 0.5}


@pytest.fixture
def stage(tmp_path):
    return Stage(tmp_path)


@pytest.fixture
def writer(tmp_path):
    return EventWriter(tmp_path / EVENTS)


def test_steps_become_progress_and_series(stage, writer):
    follower = Follower(stage, CONFIG)
    writer.write("started", step=0, workers=[])
    writer.write("step", step=1, **STEP, mfu=0.415, tflops_per_device=410.0, data_wait_seconds=0.01)
    writer.write("step", step=2, **STEP)
    follower.poll()
    assert stage.shown[0] == (1, 100, {"loss": 3.0, "tokens_per_second": 1000.0, "MFU": "41.5%"})
    assert stage.series["train.mfu"] == [(1, 0.415)]
    assert stage.series["train.tflops_per_device"] == [(1, 410.0)]
    assert stage.series["train.data_wait_seconds"] == [(1, 0.01)]
    assert stage.series["train.tokens_per_second"] == [(1, 1000.0), (2, 1000.0)]
    assert follower.starts == 1


def test_validation_is_told_by_source(stage, writer):
    follower = Follower(stage, CONFIG)
    losses = {"validation_loss": 2.5, "validation_loss.web": 2.25, "validation_loss.code": 2.75}
    writer.write("validation", step=10, **losses, tokens=900, seconds=1.0)
    follower.poll()
    assert stage.series == {f"train.{name}": [(10, value)] for name, value in losses.items()}
    assert stage.lines == ["step 10: validation loss 2.5000 (web 2.2500, code 2.7500)"]


def test_statistics_become_series_and_the_last_router_load_a_report(stage, writer):
    follower = Follower(stage, CONFIG)
    router = {"layers": [0], "loads": [[1.5, 0.5]], "violation": 0.5, "entropy": 0.8, "dead_experts": 0}
    for step in (1, 20):
        writer.write(
            "statistics", step=step, parameter_norms={"attention": 7.0}, update_ratios={"attention": 1e-3},
            memory_bytes=10**9, router=router, expert_similarity={"0": 0.5, "1": 0.25},
        )  # fmt: skip
    follower.poll()
    assert {name: points[-1][1] for name, points in stage.series.items()} == {
        "train.parameter_norm.attention": 7.0, "train.update_ratio.attention": 1e-3, "train.memory_bytes": 10**9,
        "train.router_violation": 0.5, "train.router_entropy": 0.8, "train.router_dead_experts": 0,
        "train.expert_similarity": 0.375,
    }  # fmt: skip
    follower.report()
    assert stage.reports["router"] == {"step": 20, **router}


def test_trouble_is_logged_and_reported(stage, writer):
    follower = Follower(stage, CONFIG)
    writer.write("started", step=0, workers=[])
    writer.write("guard", step=3, action="skip", reason="the loss at step 3 is nan", positions=[8, 12])
    writer.write("straggler", step=10, rank=2, host="a", ratio=2.0, line="rank 2 on a is a straggler")
    writer.write("hang", step=11, message="hang at step 11: rank 1 is stopped")
    writer.write("heard of in a later version", step=1)
    writer.write("resumed", step=10, workers=[])
    writer.write("checkpoint", step=20, seconds=2.0, blocked_seconds=0.25)
    follower.poll()
    assert stage.lines == [
        "guard, skip: the loss at step 3 is nan",
        "step 10: rank 2 on a is a straggler",
        "hang at step 11: rank 1 is stopped",
        "workers failed and were started again (1 of 8)",
        "continues from the checkpoint of step 10",
        "checkpoint of step 20 written in 2.0 s, 0.25 s of it without training",
    ]
    follower.report()
    assert {key: len(stage.reports[key]) for key in ("guard", "stragglers", "hangs", "checkpoints")} == {
        "guard": 1, "stragglers": 1, "hangs": 1, "checkpoints": 1,
    }  # fmt: skip
    assert stage.reports["guard"][0]["positions"] == [8, 12]
    assert follower.blocked == [0.25]


def test_a_second_run_tells_nothing_twice_but_accounts_for_all(stage, writer, tmp_path):
    first = Follower(stage, CONFIG)
    for step in (1, 2, 3):
        writer.write("step", step=step, **STEP)
    first.poll()
    again = Stage(tmp_path)
    second = Follower(again, CONFIG)
    writer.write("resumed", step=2, workers=[])
    for step in (3, 4):
        writer.write("step", step=step, **STEP)
    second.poll()
    assert again.series["train.loss"] == [(4, 3.0)]
    assert len(second.speeds) == 5
    second.report()
    account = again.reports["time_account"]
    assert account["steps"] == 5
    assert sum(part["seconds"] for part in account["parts"]) == pytest.approx(account["wall_seconds"], abs=0.01)
    kinds = [event["kind"] for event in EventReader(tmp_path / EVENTS).read()]
    assert kinds.count("run") == 2
