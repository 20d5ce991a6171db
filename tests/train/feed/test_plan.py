"""What each step is fed: exact shares, an untouched past, and the same cost at any distance."""

import dataclasses
from collections import Counter, defaultdict
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tatara.errors import ConfigError
from tatara.model.spec import RopeScaling
from tatara.train.feed.blocks import BLOCK
from tatara.train.feed.phases import BatchRamp, Phase, Skip
from tatara.train.feed.plan import Rope, SourceSize, TrainingPlan
from tatara.train.feed.planning import training_plan

SOURCES = {"web": SourceSize(5000, 64), "code": SourceSize(300, 64), "math": SourceSize(41, 64)}
LONG = {"books": SourceSize(90, 256)}
weights = st.dictionaries(st.sampled_from(sorted(SOURCES)), st.sampled_from([0.0, 0.001, 0.2, 0.55, 3.0]), min_size=1)
mixes = weights.filter(lambda mix: any(mix.values()))


def make(*phases: Phase, steps: int = 1000, batch: int = 16, seed: int = 0, **more) -> TrainingPlan:
    return training_plan(
        more.pop("sources", SOURCES), global_batch_size=batch, steps=steps, seed=seed, phases=phases, **more
    )


def listed(plan: TrainingPlan, first: int, end: int) -> list[tuple[int, int]]:
    source, bins = plan.samples(range(first, end))
    return list(zip(source.tolist(), bins.tolist(), strict=True))


@given(mix=mixes, blocks=st.integers(1, 40) | st.integers(10**9, 10**9 + 3))
@settings(max_examples=40, deadline=None)
def test_shares_are_exact_in_the_long_run(mix, blocks):
    plan = make(Phase(weights=mix))
    total = sum(Fraction(str(weight)) for weight in mix.values())
    before = plan.taken_before(blocks * BLOCK)
    assert sum(before.values()) == blocks * BLOCK
    for name, taken in before.items():
        # Half a sequence by rounding, and less than a block where the end cuts one.
        assert abs(taken - blocks * BLOCK * Fraction(str(mix.get(name, 0))) / total) <= len(SOURCES) + 0.5


@given(mix=mixes, seed=st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_a_source_goes_through_its_own_order_sample_by_sample(mix, seed):
    plan = make(Phase(weights=mix), seed=seed)
    end = 5 * BLOCK + 17
    source, cursor = plan.cursors(range(end))
    expected = defaultdict(int)
    for which, count in zip(source.tolist(), cursor.tolist(), strict=True):
        assert count == expected[which]
        expected[which] += 1
    assert plan.taken_before(end) == {name: expected[number] for number, name in enumerate(plan.names)}


@given(first=mixes, second=mixes, other=mixes, change=st.integers(1, 90), seed=st.integers(0, 5))
@settings(max_examples=30, deadline=None)
def test_a_change_leaves_the_past_alone_and_every_source_goes_on(first, second, other, change, seed):
    plans = [
        make(Phase(weights=first), Phase(from_step=change, weights=mix, global_batch_size=batch), seed=seed)
        for mix, batch in ((second, None), (other, 24))
    ]
    unchanged = make(Phase(weights=first), seed=seed)
    border = change * 16
    for plan in plans:
        assert listed(plan, 0, border) == listed(unchanged, 0, border)
    for plan in plans:
        visited = defaultdict(list)
        for which, each in listed(plan, 0, border + 800):
            visited[which].append(each)
        for which, bins in visited.items():
            size = plan.sizes[which].bins
            for epoch in range(0, len(bins), size):
                part = bins[epoch : epoch + size]
                assert len(set(part)) == len(part)


def test_another_source_does_not_move_the_order_of_the_others():
    def order(plan, name):
        number = plan.names.index(name)
        return [each for which, each in listed(plan, 0, 4000) if which == number]

    alone = make(Phase(weights={"code": 1}))
    for plan in (make(), make(sources=SOURCES | {"another": SourceSize(1000, 64)})):
        mine = order(plan, "code")
        assert len(mine) > 100
        assert mine == order(alone, "code")[: len(mine)]
    assert order(alone, "code") != order(make(Phase(weights={"code": 1}), seed=1), "code")


def test_without_weights_sources_count_by_their_size():
    plan = make(steps=334)
    epochs = plan.epochs()
    assert plan.end == 5344
    assert all(epoch == pytest.approx(1.0, abs=0.03) for epoch in epochs.values())


@given(
    positions=st.lists(st.integers(0, 10**12), min_size=1, max_size=20),
    change=st.integers(1, 10**9),
)
@settings(max_examples=25, deadline=None)
def test_any_positions_in_any_order_give_what_each_gives_alone(positions, change):
    plan = make(Phase(), Phase(from_step=change, weights={"web": 0.7, "math": 0.3}), steps=10**10)
    together = plan.samples(np.array(positions))
    for index, position in enumerate(positions):
        source, bins = plan.samples(range(position, position + 1))
        assert (together[0][index], together[1][index]) == (source[0], bins[0])
    source, cursor = plan.cursors(np.array(positions))
    for position, which, count in zip(positions, source.tolist(), cursor.tolist(), strict=True):
        assert plan.position_of(which, count) == position


def test_a_far_position_takes_no_more_work_than_the_first(monkeypatch):
    from tatara.train.feed import blocks

    calls = Counter()
    for name in ("_counts", "_turns"):
        inner = getattr(blocks.Stretch, name)

        def counted(self, block, inner=inner, name=name):
            calls[name] += 1
            return inner(self, block)

        monkeypatch.setattr(blocks.Stretch, name, counted)
    plan = make(steps=10**12)
    work = []
    for step in (0, 10**6, 10**12 // 16):
        calls.clear()
        plan.samples(plan.at(step).positions)
        work.append(sum(calls.values()))
    assert max(work) <= work[0] + 10


def test_only_the_proportions_of_weights_count():
    tenths, whole = (make(Phase(weights=mix)) for mix in ({"web": 0.7, "math": 0.3}, {"math": 3, "web": 7, "code": 0}))
    assert listed(tenths, 0, 2000) == listed(whole, 0, 2000)
    assert tenths.phases[0].shares == {"web": 0.7, "math": 0.3}


def test_a_share_below_one_in_a_block_still_gets_its_due():
    plan = make(Phase(weights={"web": 0.9999, "math": 0.0001}))
    assert plan.taken_before(10**6)["math"] in (99, 100, 101)


@given(
    start=st.integers(1, 12),
    increment=st.integers(1, 9),
    stages=st.integers(1, 9),
    sequences=st.integers(1, 700),
    later=st.none() | st.tuples(st.integers(1, 60), st.integers(1, 40)),
)
@settings(max_examples=60, deadline=None)
def test_the_ramp_equals_megatrons_calculator_and_steps_leave_no_gap(start, increment, stages, sequences, later):
    from megatron.core.num_microbatches_calculator import RampupBatchsizeNumMicroBatchesCalculator

    full = start + increment * stages
    phases = [Phase()] + ([Phase(from_step=later[0], global_batch_size=later[1])] if later else [])
    ramp = BatchRamp(start=start, increment=increment, sequences=sequences)
    plan = make(*phases, batch=full, ramp=ramp)
    reference = RampupBatchsizeNumMicroBatchesCalculator(full, 1, 1, False, 0, start, increment, sequences)
    consumed = 0
    for step in range(100):
        positions = plan.at(step).positions
        reference.update(consumed, consistency_check=False)
        expected = later[1] if later and step >= later[0] else reference.get_current_global_batch_size()
        assert (positions.start, len(positions)) == (consumed, expected)
        assert {plan.batches.step_at(position) for position in positions} == {step}
        consumed += expected


def test_phases_carry_on_what_they_do_not_change():
    stretched = RopeScaling(type="linear", factor=4)
    plan = make(
        Phase(name="start", weights={"web": 1}),
        Phase(from_step=10, weights={"math": 1}, global_batch_size=8),
        Phase(from_step=20, weights={"books": 1}, rope_theta=5e5, max_position_embeddings=256, global_batch_size=2),
        Phase(from_step=30, rope_scaling=stretched),
        sources=SOURCES | LONG,
        steps=40,
    )
    steps = [plan.at(step) for step in (9, 10, 20, 30)]
    assert [each.phase for each in steps] == [0, 1, 2, 3]
    assert [each.sequence_length for each in steps] == [64, 64, 256, 256]
    assert [len(each.positions) for each in steps] == [16, 8, 2, 2]
    assert [each.rope for each in steps] == [None, None, Rope(5e5, None, 256), Rope(5e5, stretched, 256)]
    assert steps[3].positions.start == 160 + 80 + 20
    by_phase = plan.epochs_by_phase()
    assert by_phase[1] == {"web": 0, "code": 0, "math": pytest.approx(80 / 41), "books": 0}
    assert sum(phase["books"] for phase in by_phase) == pytest.approx(40 / 90)
    assert [phase.name for phase in plan.phases] == ["start", "phase 1", "phase 2", "phase 3"]


def test_a_phase_without_weights_does_not_disturb_the_order():
    plain, phased = make(), make(Phase(), Phase(from_step=7, rope_theta=1e6), Phase(from_step=9, global_batch_size=3))
    assert listed(plain, 0, 900) == listed(phased, 0, 900)


def test_repetition_is_told():
    plan = make(Phase(weights={"web": 0.5, "math": 0.5}), steps=100)
    (warning,) = plan.repeats(4)
    assert "source math is repeated 19.6 times" in warning
    assert plan.repeats(20) == []


def test_skipping_moves_the_data_and_nothing_else():
    plan = make(Phase(), Phase(from_step=50, global_batch_size=4), steps=100)
    jumped = plan.with_skips([Skip(at_step=10, steps=5)])
    assert [jumped.at(step).positions for step in (9, 10)] == [plan.at(step).positions for step in (9, 15)]
    assert jumped.at(45).positions == plan.at(50).positions
    assert jumped.at(45).step == 45
    assert jumped.end == plan.end + 5 * 4
    assert dataclasses.replace(jumped, skips=()) == plan


@pytest.mark.parametrize(
    ("phases", "message"),
    [
        ([Phase(weights={"wed": 1})], r"phases.0.weights: there is no source wed; did you mean 'web'\?"),
        ([Phase(from_step=1)], "the first phase starts at 0"),
        ([Phase(), Phase(from_step=5), Phase(from_step=5)], "put phases in order"),
        ([Phase(), Phase(from_step=1000)], "never reached, the run has 1000 steps"),
        ([Phase(name="long")], r"sources of long .* \(64 tokens: code, math, web; 256 tokens: books\)"),
        ([Phase(weights={"books": 1}, max_position_embeddings=128)], "more than max_position_embeddings=128"),
    ],
)
def test_phases_that_do_not_fit_are_refused_in_one_line(phases, message):
    with pytest.raises(ConfigError, match=message) as caught:
        make(*phases, sources=SOURCES | LONG)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("given", [{"web": -1.0}, {"web": float("nan")}, {"web": 0.0}, {}])
def test_weights_are_finite_and_positive(given):
    with pytest.raises(ValueError, match="weight"):
        Phase(weights=given)


def test_a_ramp_must_lead_to_the_batch():
    with pytest.raises(ConfigError, match="must give global_batch_size=16"):
        make(ramp=BatchRamp(start=4, increment=5, sequences=10))
