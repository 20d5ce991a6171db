"""Figures from a timeline that was made by hand, with speeds that are known."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tatara.rl.simulation.calibration import compare, read_run, shared_cores
from tatara.rl.simulation.events import simulate
from tatara.rl.simulation.loop import EngineCurve
from tatara.rl.simulation.recording import Busy, LearnedBatch, Recorded, figures
from tatara.rl.sync_receiver import Synchronised

CURVE = EngineCurve(0.02, 0.005)
ROLLOUTS, LENGTH, PROMPT = 16, 25, 6
CORES = 1.25
COUNTS = {"engines": 1, "concurrency": 16, "groups_per_batch": 4, "group_size": 4, "rollout_devices": 1.0,
          "learner_devices": 1.0, "cores": 2}  # fmt: skip


def paced(start: float, seconds: float, speed: float) -> Iterator[tuple[float, float, int, int]]:
    """Pieces of ten steps of sixteen responses."""
    each = 10 * CURVE.step(ROLLOUTS) / speed
    for number in range(round(seconds / each)):
        yield start + number * each, start + (number + 1) * each, 10, 10 * ROLLOUTS


def recorded(overlapped: bool) -> Recorded:
    """Generating takes 2.5 s alone, training 2 s; by turns, or each batch generated while the one before is trained.

    Together each has 5/8 of its speed: 3.2 s of training beside the engine, which then still needs 0.5 s alone.
    """
    batches, spans, paces, syncs, now = [], [], [], [], 100.0
    for number in range(8):
        shared = 3.2 if overlapped else 0.0
        paces += paced(now, shared, CORES / 2)
        paces += paced(now + shared, 0.5 if overlapped else 2.5, 1.0)
        generated = now + (3.7 if overlapped else 2.5)
        began = now if overlapped else generated + 0.25
        updated = began + (3.2 if overlapped else 2.0)
        published = updated + 0.0625
        asked = now
        batches.append(LearnedBatch(number, asked, began, updated, published, ROLLOUTS * (LENGTH + PROMPT), ROLLOUTS,
                                    LENGTH, float(overlapped)))  # fmt: skip
        spans += [(now, generated, "generate"), (generated, max(generated, published), "wait")]
        now = max(generated, published)
        syncs.append(Synchronised(number + 1, published + 0.5, 0.5, 0.25, 0.125, 1e-6))
    worker = {"syncs": syncs, "lengths": [LENGTH] * 32, "deliver_seconds": 0.0}
    scorer = {"scored": 100, "turnaround": 25.0}
    formed = {each.number: each.began - 0.125 for each in batches}
    return Recorded(batches, formed, {"a": spans}, {"a": paces}, {"a": worker}, {"b": scorer})


def test_what_was_measured_is_found_in_the_figures() -> None:
    run = figures(recorded(overlapped=False), staleness=0, **COUNTS)
    assert run is not None
    [point] = run.engine
    assert (point.concurrency, point.beside) == (ROLLOUTS, 0)
    assert point.tokens_per_second == pytest.approx(CURVE.tokens_per_second(ROLLOUTS))
    assert [each.tokens for each in run.train] == [496.0] * 6
    assert [each.seconds for each in run.train] == pytest.approx([2.0] * 6)
    assert run.prompt_tokens == PROMPT
    assert run.load_seconds == pytest.approx(0.375)
    assert run.fetch_seconds == pytest.approx(0.125)
    assert run.reward_seconds == pytest.approx(0.25)
    assert run.handout_seconds == pytest.approx(0.125)
    assert run.publish_seconds == pytest.approx(0.0625)
    cycle = 2.5 + 0.25 + 2.0 + 0.0625
    assert run.measured.batches_per_second == pytest.approx(1 / cycle)
    assert run.measured.generate == pytest.approx(2.5 / cycle)
    assert run.measured.train == pytest.approx(2.0 / cycle)
    assert run.measured.utilisation == pytest.approx(4.5 / cycle / 2)


def test_what_learner_and_engine_cost_each_other_is_found() -> None:
    alone = figures(recorded(overlapped=False), staleness=0, **COUNTS)
    both = figures(recorded(overlapped=True), staleness=1, **COUNTS)
    assert alone is not None
    assert both is not None
    found = shared_cores(alone.engine + both.engine, alone.train + both.train, 2)
    assert found == pytest.approx(CORES, abs=0.03)
    made = both.told_by([alone, both]).loop()
    assert made.engine.tokens_per_second(ROLLOUTS) == pytest.approx(CURVE.tokens_per_second(ROLLOUTS), rel=0.03)
    assert made.learner.seconds(496) == pytest.approx(2.0, rel=0.03)
    # Nothing was measured together: the processor is believed to have the cores that it says.
    assert shared_cores(alone.engine, alone.train, 2) == 2


def test_the_figures_are_what_a_file_holds(tmp_path: Path) -> None:
    run = figures(recorded(overlapped=False), staleness=0, **COUNTS)
    assert run is not None
    (tmp_path / "run.json").write_text(json.dumps(run.dump()))
    assert read_run(tmp_path / "run.json") == run
    compared = {each.name: each.off for each in compare(run, simulate(run.loop()))}
    assert set(compared) == set(type(run.measured).model_fields)
    # What happens between the synchronisation and the next group was not drawn in the timeline.
    assert abs(compared["batches_per_second"]) < 0.15


def test_a_run_of_a_few_batches_says_nothing() -> None:
    told = recorded(overlapped=False)
    assert figures(Recorded(told.batches[:4], statuses=told.statuses), staleness=0, **COUNTS) is None


def test_a_batch_is_read_from_the_learners_event() -> None:
    spans = [[1.0, 2.0, "wait"], [3.0, 0.5, "train"], [3.5, 4.0, "train"], [8.0, 0.25, "sync"]]
    event = {"number": 3, "spans": spans, "fill": 0.5, "rows": 4, "rollouts": 8, "response_mean": 20.0,
             "staleness": 1.0}  # fmt: skip
    assert LearnedBatch.of(event, 128) == LearnedBatch(3, 1.0, 3.0, 8.0, 8.25, 256.0, 8, 20.0, 1.0)
    assert LearnedBatch.of(event | {"spans": spans[1:]}, 128) is None


def test_busy_times_are_added_up() -> None:
    busy = Busy([(1.0, 3.0), (5.0, 6.0)])
    assert busy.within(0.0, 10.0) == 3.0
    assert busy.within(2.0, 5.5) == 1.5
    assert busy.share(3.0, 5.0) == 0.0
