"""Seconds and paces of a worker's time."""

import itertools
import time

import pytest

from tatara.rl.worker_clock import PACE_SECONDS, WorkerClock


def test_paces_hold_every_step_of_generating_and_no_other_time() -> None:
    clock = WorkerClock()
    for _ in range(2):
        clock.switch("generate")
        for _ in range(5):
            time.sleep(PACE_SECONDS / 3)
            clock.stepped(7)
        clock.switch("sync")
        time.sleep(PACE_SECONDS / 2)
    clock.switch("wait")
    paces, spans = clock.paces(), clock.spans()
    assert (sum(pace.steps for pace in paces), sum(pace.tokens for pace in paces)) == (10, 70)
    assert all(before.end <= after.start for before, after in itertools.pairwise(paces))
    generated = [span for span in spans if span.what == "generate"]
    assert len(paces) > len(generated) == 2
    for pace in paces:
        assert any(span.start <= pace.start < pace.end <= span.end for span in generated)
    lengths = (sum(each.end - each.start for each in found) for found in (paces, generated))
    assert next(lengths) == pytest.approx(next(lengths))
    assert clock.paces(paces[0].end) == paces[1:]


def test_every_second_has_one_cause() -> None:
    clock = WorkerClock()
    for cause in ("wait", "generate", "generate", "sync", "environment"):
        time.sleep(0.01)
        clock.switch(cause)
    spans = clock.spans()
    assert [span.what for span in spans] == ["start", "wait", "generate", "sync", "environment"]
    assert all(before.end == after.start for before, after in itertools.pairwise(spans))
    told = clock.seconds()
    assert all(told[span.what] == pytest.approx(span.end - span.start) for span in spans[:-1])
