"""The learning rate."""

import itertools
import math
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tatara.train.schedule import Schedule, learning_rate

shapes = st.sampled_from(["cosine", "linear", "wsd", "constant", "inverse_sqrt"])


@given(
    shape=shapes, warmup=st.integers(0, 50), total=st.integers(1, 400), ratio=st.floats(0, 1), step=st.integers(0, 500)
)
def test_stays_between_floor_and_peak_after_the_warmup(shape, warmup, total, ratio, step):
    rate = learning_rate(Schedule(shape=shape, warmup_steps=warmup, min_ratio=ratio), 2.0, step, total)
    assert rate <= 2.0 + 1e-12
    assert rate >= (2.0 * ratio - 1e-12 if step >= min(warmup, total) else 0.0)


@given(shape=shapes, warmup=st.integers(0, 50), total=st.integers(2, 400))
def test_rises_then_never_rises_again(shape, warmup, total):
    rates = [learning_rate(Schedule(shape=shape, warmup_steps=warmup), 1.0, step, total) for step in range(total)]
    top = min(warmup, total)
    assert rates[:top] == sorted(rates[:top])
    tail = rates[max(0, top - 1) :]
    assert tail == sorted(tail, reverse=True)


def test_cosine_hits_peak_middle_and_floor():
    schedule = Schedule(warmup_steps=10, min_ratio=0.1)
    assert learning_rate(schedule, 1.0, 0, 111) == pytest.approx(0.1)
    assert learning_rate(schedule, 1.0, 9, 111) == 1.0
    assert learning_rate(schedule, 1.0, 60, 111) == pytest.approx(0.55)
    assert learning_rate(schedule, 1.0, 110, 111) == pytest.approx(0.1)
    assert learning_rate(schedule, 1.0, 10_000, 111) == pytest.approx(0.1)


def test_cosine_equals_torch_without_warmup():
    torch = pytest.importorskip("torch")
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.3)
    reference = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=49, eta_min=0.03)
    for step in range(50):
        ours = learning_rate(Schedule(warmup_steps=0, min_ratio=0.1), 0.3, step, 50)
        assert math.isclose(ours, optimizer.param_groups[0]["lr"], rel_tol=1e-9)
        optimizer.step()
        reference.step()


def test_wsd_is_flat_until_its_last_part():
    schedule = Schedule(shape="wsd", warmup_steps=5, decay_fraction=0.2, min_ratio=0.0)
    rates = [learning_rate(schedule, 1.0, step, 100) for step in range(100)]
    assert rates[5:80] == [1.0] * 75
    assert rates[80] == 1.0
    assert rates[99] == 0.0
    assert rates[90] == pytest.approx(1 - 10 / 19)


def test_linear_equals_torch_without_warmup():
    torch = pytest.importorskip("torch")
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.3)
    reference = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, total_iters=29)
    for step in range(50):
        ours = learning_rate(Schedule(shape="linear", warmup_steps=0, min_ratio=0.05, decay_steps=30), 0.3, step, 50)
        assert math.isclose(ours, optimizer.param_groups[0]["lr"], rel_tol=1e-9)
        optimizer.step()
        reference.step()


@pytest.mark.parametrize("shape", ["linear", "cosine", "sqrt"])
def test_wsd_decays_as_megatron_does(shape):
    from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler

    # Megatron's names for these shapes; it counts the steps done, and its decay ends one step later.
    styles = {"linear": "linear", "cosine": "cosine", "sqrt": "minus_sqrt"}
    schedule = Schedule(shape="wsd", warmup_steps=10, decay_steps=31, decay_shape=shape, min_ratio=0.1)
    reference = OptimizerParamScheduler(
        SimpleNamespace(param_groups=[]), 0.0, 1.0, 0.1, 10, 100, "WSD", 0.0, 0.0, 0, "constant",
        wsd_decay_steps=30, lr_wsd_decay_style=styles[shape],
    )  # fmt: skip
    for step in range(10, 101):
        reference.num_steps = step
        assert learning_rate(schedule, 1.0, step, 101) == pytest.approx(reference.get_lr({}), abs=1e-12)


def test_inverse_sqrt_meets_the_warmup_and_halves_after_four_times_as_many_steps():
    schedule = Schedule(shape="inverse_sqrt", warmup_steps=100, min_ratio=0.25)
    assert learning_rate(schedule, 2.0, 99, 10_000) == 2.0
    assert learning_rate(schedule, 2.0, 399, 10_000) == pytest.approx(1.0)
    assert learning_rate(schedule, 2.0, 9_999, 10_000) == 0.5


def test_a_decay_may_be_longer_than_the_run():
    schedule = Schedule(warmup_steps=0, decay_steps=1001, min_ratio=0.0)
    assert learning_rate(schedule, 1.0, 500, 600) == pytest.approx(0.5)


@given(shape=shapes, total=st.integers(2, 300), anneal=st.integers(1, 320))
def test_an_anneal_goes_straight_to_zero_from_where_the_shape_is(shape, total, anneal):
    plain = Schedule(shape=shape, warmup_steps=7)
    annealed = plain.model_copy(update={"anneal_steps": anneal})
    first = max(0, total - anneal)
    rates = [learning_rate(annealed, 1.0, step, total) for step in range(total + 3)]
    assert rates[:first] == [learning_rate(plain, 1.0, step, total) for step in range(first)]
    tail = rates[max(0, first - 1) : total]
    assert [later - before for before, later in itertools.pairwise(tail)] == pytest.approx(
        [tail[-1] - tail[-2]] * (len(tail) - 1) if len(tail) > 1 else []
    )
    assert rates[total - 1 :] == [0.0] * 4


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"shape": "constant", "decay_fraction": 0.5}, "decay_fraction has no effect"),
        ({"decay_fraction": 0.5}, "decay_fraction has no effect with shape=cosine"),
        ({"shape": "inverse_sqrt", "decay_steps": 5}, "decay_steps has no effect"),
        ({"shape": "linear", "decay_shape": "sqrt"}, "decay_shape has no effect"),
        ({"shape": "wsd", "decay_steps": 5, "decay_fraction": 0.1}, "give one of them"),
    ],
)
def test_settings_without_effect_are_refused(given, message):
    with pytest.raises(ValidationError, match=message):
        Schedule(**given)


@given(shape=shapes)
def test_a_schedule_can_be_written_down_and_read_back(shape):
    schedule = Schedule(shape=shape)
    assert Schedule.model_validate(schedule.dump()) == schedule
