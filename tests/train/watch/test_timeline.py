"""The account of time on made-up runs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tatara.train.watch.timeline import CAUSES, Timeline, account


def parts(events, **options):
    """The parts that are not empty."""
    return {cause: seconds for cause, seconds in account(events, **options).parts.items() if seconds}


def steps(first, last, begin, seconds=1.0, **more):
    return [
        {"kind": "step", "time": begin + (step - first + 1) * seconds, "step": step, "seconds": seconds, **more}
        for step in range(first, last + 1)
    ]


def test_a_run_without_trouble():
    events = [
        {"kind": "run", "time": 100.0},
        {"kind": "started", "time": 108.0, "step": 0},
        *steps(1, 10, begin=110.0, data_wait_seconds=0.25),
        {"kind": "validation", "time": 122.0, "step": 10, "validation_loss": 3.0},
        {"kind": "log", "time": 122.5, "message": "no part of the account"},
        *steps(11, 15, begin=123.0),
        {"kind": "checkpoint", "time": 128.5, "step": 15, "seconds": 4.0, "blocked_seconds": 0.75},
    ]
    found = account(events, start=98.0, end=130.0)
    assert {cause: seconds for cause, seconds in found.parts.items() if seconds} == {
        "startup": 12.0, "useful": 12.5, "data_wait": 2.5, "validation": 2.0, "checkpoint": 0.75, "other": 2.25,
    }  # fmt: skip
    assert found.wall == 32.0
    assert found.effective == pytest.approx(12.5 / 32)
    assert (found.steps, found.restarts) == (15, 0)


def test_a_restart_costs_the_gap_and_the_steps_done_again():
    events = [
        {"kind": "started", "time": 0.0, "step": 0},
        *steps(1, 10, begin=0.0),
        {"kind": "failed", "time": 13.0},
        {"kind": "resumed", "time": 30.0, "step": 6},
        *steps(7, 12, begin=31.0),
    ]
    assert parts(events) == {"useful": 12.0, "repeated": 4.0, "restart": 21.0}
    # Without word of the failure, it is the same.
    assert parts([event for event in events if event["kind"] != "failed"]) == parts(events)
    assert account(events).restarts == 1


def test_a_hang_is_told_from_the_restart_after_it():
    events = [
        {"kind": "started", "time": 0.0, "step": 0},
        *steps(1, 5, begin=0.0),
        {"kind": "hang", "time": 65.0, "step": 6, "message": "hang at step 6"},
        {"kind": "resumed", "time": 80.0, "step": 5},
        *steps(6, 6, begin=80.0),
    ]
    assert parts(events) == {"useful": 6.0, "hang": 60.0, "restart": 15.0}
    assert account(events).restarts == 1


def test_what_the_guard_does_costs_time():
    events = [
        *steps(1, 5, begin=0.0),
        {"kind": "guard", "time": 5.8, "step": 6, "action": "skip"},
        *steps(6, 6, begin=5.0),
        {"kind": "guard", "time": 6.7, "step": 7, "action": "warn"},
        *steps(7, 8, begin=6.0),
        {"kind": "guard", "time": 8.5, "step": 9, "action": "rollback"},
        *steps(5, 9, begin=10.0),
    ]
    assert parts(events, start=0.0) == {"useful": 8.0, "guard": 3.0, "repeated": 4.0}


def test_time_in_which_nobody_ran_is_no_elapsed_time():
    events = [
        {"kind": "run", "time": 0.0},
        *steps(1, 10, begin=10.0),
        {"kind": "run", "time": 1000.0},
        {"kind": "resumed", "time": 1008.0, "step": 10},
        *steps(11, 20, begin=1010.0),
    ]
    found = account(events)
    assert found.parts["stopped"] == 980.0
    assert found.parts["restart"] == 10.0
    assert found.effective == pytest.approx(20 / 40)


def test_a_report_leaves_out_what_did_not_happen():
    report = account(steps(1, 4, begin=0.0), start=0.0).report()
    assert report == {
        "effective": 1.0, "wall_seconds": 4.0, "steps": 4, "restarts": 0,
        "parts": [{"cause": "training steps", "seconds": 4.0}],
    }  # fmt: skip
    assert account([]).effective == 0.0
    assert account([], end=5.0).wall == 0.0


TIMED = ("run", "started", "resumed", "failed", "step", "validation", "checkpoint", "hang")
events_strategy = st.lists(
    st.fixed_dictionaries(
        {"kind": st.sampled_from([*TIMED, "guard", "log", "unheard of"]), "time": st.floats(0, 1e6)},
        optional={
            "seconds": st.floats(-1, 1e7),
            "data_wait_seconds": st.floats(-1, 1e7),
            "blocked_seconds": st.floats(-1, 1e7),
        },
    ).flatmap(
        lambda event: st.builds(
            lambda step, action: {**event, "step": step, "action": action},
            st.integers(0, 20),
            st.sampled_from(["warn", "skip", "rollback", "stop"]),
        )
    ),
    max_size=40,
)


def takes_time(event):
    return event["kind"] in TIMED or (event["kind"] == "guard" and event["action"] in ("rollback", "stop"))


@given(events_strategy, st.booleans())
def test_the_parts_sum_to_the_whole_whatever_happened(events, in_order):
    if in_order:
        events = sorted(events, key=lambda event: event["time"])
    found = account(events, start=-5.0, end=2e6)
    assert set(found.parts) == set(CAUSES)
    assert min(found.parts.values()) >= 0
    assert 0 <= found.effective <= 1
    expected = 2e6 + 5 if any(map(takes_time, events)) else 0
    assert found.wall == pytest.approx(expected, abs=1e-3)


@given(events_strategy, st.integers(0, 40))
def test_an_account_in_between_changes_nothing(events, cut):
    timeline = Timeline()
    for event in events[:cut]:
        timeline.add(event)
    timeline.account(1e6)
    for event in events[cut:]:
        timeline.add(event)
    assert timeline.account() == account(events)
