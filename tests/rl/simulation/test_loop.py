"""Lengths and curves of the simulated loop."""

import random
import statistics

import pytest

from tatara.errors import ConfigError
from tatara.rl.simulation.engines import SimulatedEngine
from tatara.rl.simulation.loop import EngineCurve, LearnerCurve, Lengths, fit_engine, fit_learner


def test_lengths_have_the_mean_and_spread_asked_for() -> None:
    drawn = Lengths(400, 0.7).draw(random.Random(0), 50_000)
    assert statistics.mean(drawn) == pytest.approx(400, rel=0.02)
    assert statistics.stdev(drawn) == pytest.approx(280, rel=0.05)
    assert max(Lengths(400, 0.7, 500).draw(random.Random(0), 1000)) == 500
    assert Lengths(7.2).draw(random.Random(0), 3) == [7, 7, 7]
    assert set(Lengths(recorded=(3, 9)).draw(random.Random(0), 100)) == {3, 9}


@pytest.mark.parametrize("wrong", [{"mean": 0}, {"spread": -1}, {"longest": 0}, {"recorded": (3, 0)}])
def test_lengths_that_make_no_sense_are_refused(wrong: dict) -> None:
    with pytest.raises(ConfigError):
        Lengths(**wrong)


def test_the_curve_of_an_engine_is_found_again() -> None:
    curve = EngineCurve(0.02, 0.0005)
    found = fit_engine([(n, curve.tokens_per_second(n)) for n in (1, 8, 64, 256)])
    assert (found.start, found.each) == pytest.approx((0.02, 0.0005))
    assert fit_engine([(16, 800.0)]).tokens_per_second(16) == pytest.approx(800)
    # Faster than in proportion: no step is free, so the fixed part is all there is; and the other way round.
    assert fit_engine([(1, 10.0), (10, 200.0)]).each == 0
    assert fit_engine([(1, 10.0), (10, 5.0)]).start == 0
    with pytest.raises(ConfigError, match="tokens_per_second"):
        fit_engine([])


def test_the_line_of_a_learner_is_found_again() -> None:
    assert fit_learner([(100, 3.0), (300, 7.0)]) == LearnerCurve(pytest.approx(1.0), pytest.approx(0.02))
    # Sizes that are all but equal say nothing of a slope.
    assert fit_learner([(100, 3.0), (102, 5.0), (98, 4.0)]) == LearnerCurve(0.0, pytest.approx(0.04))
    assert fit_learner([(100, 1.0), (300, 7.0)]).fixed == 0
    with pytest.raises(ConfigError, match="learner"):
        fit_learner([])


def test_responses_share_an_engine() -> None:
    engine = SimulatedEngine(0, EngineCurve(1.0, 0.5), 1)
    engine.start(1, 10)
    engine.start(2, 30)
    # Ten steps of two responses, then twenty of one.
    assert engine.next_end() == pytest.approx(10 * 2.0)
    engine.advance(20.0)
    assert engine.ended() == [1]
    assert engine.next_end() == pytest.approx(20 + 20 * 1.5)
    engine.advance(35.0)
    engine.start(3, 10)
    assert engine.next_end() == pytest.approx(35 + 10 * 2.0)
    engine.advance(55.0)
    assert engine.ended() == [2, 3]
    assert engine.generated == pytest.approx(50)
    assert engine.next_end() is None
