"""The learning rate."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tatara.train.schedule import Schedule, learning_rate

shapes = st.sampled_from(["cosine", "wsd", "constant"])


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


def test_constant_has_no_decay_to_set():
    with pytest.raises(ValidationError, match="decay_fraction has no effect"):
        Schedule(shape="constant", decay_fraction=0.5)
