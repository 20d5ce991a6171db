import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tatara.tracking.charts import (
    LARGEST,
    VIEW,
    Curve,
    Scale,
    axis_label,
    curve_points,
    downsample,
    line_chart,
    log_ticks,
    ticks,
    value_scale,
)

finite = st.floats(min_value=-LARGEST, max_value=LARGEST)
curves = st.lists(finite, min_size=1, max_size=400).map(lambda values: [(float(i), v) for i, v in enumerate(values)])


@given(points=curves, limit=st.integers(min_value=4, max_value=60))
def test_downsampling_keeps_order_ends_and_extremes(points: list[tuple[float, float]], limit: int) -> None:
    kept = downsample(points, limit)
    assert len(kept) <= max(limit, 0)
    steps = [step for step, _ in kept]
    assert steps == sorted(set(steps))
    assert set(kept) <= set(points)
    assert (kept[0], kept[-1]) == (points[0], points[-1])
    assert min(y for _, y in kept) == min(y for _, y in points)
    assert max(y for _, y in kept) == max(y for _, y in points)


def test_a_single_spike_in_a_million_points_survives() -> None:
    points = [(float(step), 1.0) for step in range(1_000_000)]
    points[654_321] = (654_321.0, 9.0)
    kept = downsample(points, 800)
    assert len(kept) <= 800
    assert (654_321.0, 9.0) in kept


def test_fewer_points_than_the_limit_are_left_alone() -> None:
    assert downsample([(1.0, 2.0), (3.0, 4.0)], 800) == [(1.0, 2.0), (3.0, 4.0)]
    with pytest.raises(ValueError, match="at least 4"):
        downsample([], 3)


def test_the_last_value_of_a_repeated_step_counts_and_what_is_not_finite_is_counted() -> None:
    series = [
        {"step": 1, "loss": 5.0},
        {"step": 2, "loss": 4.0},
        {"step": 3, "loss": math.nan},
        {"step": 2, "loss": 3.5},
        {"step": 4, "other": 1.0},
        {"step": 5, "loss": math.inf},
    ]
    assert curve_points(series, "loss") == ([(1.0, 5.0), (2.0, 3.5)], 2)


@given(low=finite, high=finite)
@example(low=0.0, high=5e-324)
@example(low=-LARGEST, high=LARGEST)
def test_ticks_are_few_rising_and_within_the_range(low: float, high: float) -> None:
    low, high = min(low, high), max(low, high)
    found = ticks(low, high)
    assert 1 <= len(found) <= 21
    assert found == sorted(set(found))
    room = (high - low) * 1e-3
    assert all(low - room <= tick <= high + room for tick in found)


def test_ticks_are_round() -> None:
    assert ticks(0, 10) == [0, 2, 4, 6, 8, 10]
    assert ticks(0.0, 0.003, 5) == pytest.approx([0, 0.001, 0.002, 0.003])
    assert log_ticks(1, 1000) == [1, 10, 100, 1000]
    assert log_ticks(2.5, 9) == [4, 6, 8]


@given(low=st.floats(min_value=1e-30, max_value=1e20), factor=st.floats(min_value=1.0001, max_value=1e6))
def test_log_ticks_are_positive_and_within_the_range(low: float, factor: float) -> None:
    found = log_ticks(low, low * factor)
    assert len(found) <= 21
    assert all(tick > 0 and low * 0.99 <= tick <= low * factor * 1.01 for tick in found)


@given(values=st.lists(finite, min_size=1, max_size=20))
def test_every_value_lies_within_the_plot(values: list[float]) -> None:
    scale = value_scale(values)
    assert all(-1e-6 <= scale.at(value) <= VIEW + 1e-6 for value in values)


def test_a_log_scale_puts_the_geometric_mean_in_the_middle() -> None:
    assert Scale(1, 100, log=True).at(10) == pytest.approx(VIEW / 2)
    assert Scale(1, 3).at(2) == VIEW / 2
    assert Scale(2, 2).at(2) == VIEW / 2


@pytest.mark.parametrize(
    ("value", "all_ticks", "expected"),
    [
        (0.0, [0.0, 1.0], "0"),
        (0.001, [0.0, 0.003], "0.001"),
        (1e-5, [1e-5, 3e-5], "1e-5"),
        (14_000.0, [12_000.0, 14_000.0], "14K"),
        (12_500.0, [12_500.0, 15_000.0], "12.5K"),
        (2.5, [2.5, 5.0], "2.5"),
    ],
)
def test_tick_labels(value: float, all_ticks: list[float], expected: str) -> None:
    assert axis_label(value, all_ticks) == expected


@given(points=curves)
@example(points=[(0.0, 0.0)])
@example(points=[(0.0, 5e-324), (1.0, LARGEST)])
def test_any_finite_curve_can_be_drawn(points: list[tuple[float, float]]) -> None:
    chart = line_chart([Curve("a", points)], identity="c", title="Loss", log_toggle=True)
    assert "nan" not in chart.replace("infinity", "").lower().split("data-curves")[0].split("aria-label")[0]
    assert chart.count("<svg") in (1, 2)


def test_a_chart_says_in_words_what_it_shows_and_offers_log_only_for_positive_values() -> None:
    chart = line_chart(
        [Curve("training", [(1, 9.0), (2, 3.0)]), Curve("validation", [(2, 4.0)], "b")],
        identity="c",
        title="Loss",
        unit="nats",
        log_toggle=True,
    )
    assert "Loss in nats: training goes from 9 at step 1 to 3 at step 2 (lowest 3, highest 9); validation" in chart
    assert 'type="checkbox"' in chart
    assert 'class="legend"' in chart
    below = line_chart([Curve("x", [(1, -1.0), (2, 3.0)])], identity="c", title="Loss", log_toggle=True)
    assert "checkbox" not in below
