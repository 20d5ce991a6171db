"""Idle shares of this machine's cores, against what the kernel itself counts."""

import time

import psutil
import pytest

from tatara.rl.idle_cores import CoreTime, CoreWatch


def test_the_share_is_of_the_time_that_went_by() -> None:
    assert CoreTime(13.0, 40.0).idle_since(CoreTime(10.0, 30.0)) == pytest.approx(0.3)
    assert CoreTime(10.0, 30.0).idle_since(CoreTime(10.0, 30.0)) is None


def test_moments_that_are_over_lie_between_the_looks_around_them() -> None:
    watch, looks = CoreWatch(), []
    for _ in range(3):
        time.sleep(0.2)
        looks.append(time.time())
        watch.look()
    middle = watch.at((looks[0] + looks[1]) / 2)
    first, second = watch.at(looks[0]), watch.at(looks[1])
    assert first.whole < middle.whole < second.whole
    assert first.idle <= middle.idle <= second.idle
    assert watch.at(looks[0] - 100).whole <= first.whole
    assert watch.at(time.time()).whole > second.whole


def test_a_core_that_computes_is_not_idle() -> None:
    watch, began, before = CoreWatch(), time.time(), psutil.cpu_times()
    end = time.monotonic() + 0.5
    while time.monotonic() < end:
        sum(range(1000))
    now, after = watch.at(time.time()), psutil.cpu_times()
    idle = now.idle_since(watch.at(began))
    assert idle is not None
    assert idle == pytest.approx((after.idle - before.idle) / (sum(after[:8]) - sum(before[:8])), abs=0.2)
