"""Layout arithmetic, against brute force."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tatara.errors import LayoutError
from tatara.model.spec import MixtureOfExperts, ModelSpec
from tatara.train.layout import ParallelLayout

sizes = st.integers(1, 9)


@given(tp=sizes, pp=sizes, cp=sizes, world=st.integers(1, 96))
def test_resolve_fills_in_what_is_left_or_refuses(tp, pp, cp, world):
    layout = ParallelLayout(tp=tp, pp=pp, cp=cp)
    fitting = [dp for dp in range(1, world + 1) if tp * pp * cp * dp == world]
    if fitting:
        assert layout.resolve(world).dp == fitting[0]
    else:
        with pytest.raises(LayoutError, match="num_workers"):
            layout.resolve(world)


@given(tp=sizes, groups=st.integers(1, 8), factor=st.integers(1, 3), pp=sizes, virtual=st.integers(1, 3))
def test_check_model_accepts_exactly_what_divides(tp, groups, factor, pp, virtual):
    model = ModelSpec(num_query_groups=groups, num_attention_heads=groups * factor, head_dim=8, ffn_hidden_size=48)
    layout = ParallelLayout(tp=tp, pp=pp, virtual_stages=virtual)
    divisible = all(n % tp == 0 for n in (groups, groups * factor, 48, model.padded_vocab_size))
    divisible = divisible and model.num_layers % (pp * virtual) == 0 and (virtual == 1 or pp > 1)
    if divisible:
        layout.check_model(model)
    else:
        with pytest.raises(LayoutError, match="layout"):
            layout.check_model(model)


@given(dp=sizes, micro=sizes, batch=st.integers(1, 64), cp=st.integers(1, 4), sequence=st.integers(2, 64))
def test_check_batch_counts_micro_batches(dp, micro, batch, cp, sequence):
    layout = ParallelLayout(cp=cp, dp=dp)
    if batch % (dp * micro) == 0 and (cp == 1 or sequence % (2 * cp) == 0):
        assert layout.check_batch(sequence, batch, micro) * dp * micro == batch
    else:
        with pytest.raises(LayoutError):
            layout.check_batch(sequence, batch, micro)


def test_a_tensor_parallel_size_of_three_names_the_divisor_in_one_line():
    with pytest.raises(LayoutError) as caught:
        ParallelLayout(tp=3).check_model(ModelSpec())
    assert str(caught.value) == "layout.tp=3 does not divide num_query_groups=2 (these do: 1, 2)"


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        (ParallelLayout(sequence_parallel=True), "layout.sequence_parallel needs layout.tp > 1"),
        (ParallelLayout(virtual_stages=2), "layout.virtual_stages=2 needs layout.pp > 1"),
        (ParallelLayout(pp=3), "layout.pp=3 does not divide num_layers=4"),
        (
            ParallelLayout(pp=2, virtual_stages=4),
            "layout.virtual_stages=4 does not divide the 2 layers that layout.pp=2 makes",
        ),
        (ParallelLayout(ep=2), "layout.ep=2 needs a mixture-of-experts model"),
        (ParallelLayout(first_stage_layers=1, last_stage_layers=1), "needs layout.pp > 1: there is one stage only"),
        (ParallelLayout(pp=3, first_stage_layers=1), "leaves 3 of num_layers=4 for the other 2 of layout.pp=3"),
        (ParallelLayout(pp=2, first_stage_layers=4), "leaves 0 of num_layers=4 for the other 1 of layout.pp=2"),
        (ParallelLayout(pp=2, first_stage_layers=1, virtual_stages=3), "make stages of [1, 3]"),
        (ParallelLayout(pp=2, last_stage_layers=1, virtual_stages=2), "make stages of [3, 1]"),
    ],
)
def test_messages_name_the_field(layout, message):
    with pytest.raises(LayoutError, match=re.escape(message)):
        layout.check_model(ModelSpec())


@given(pp=sizes, first=st.none() | st.integers(1, 6), last=st.none() | st.integers(1, 6), layers=st.integers(1, 24))
def test_uneven_stages_hold_every_layer_once_or_are_refused(pp, first, last, layers):
    layout = ParallelLayout(pp=pp, first_stage_layers=first, last_stage_layers=last)
    try:
        stages = layout.layers_per_stage(layers)
    except LayoutError:
        ends = [end for end in (first, last) if end is not None]
        others = pp - len(ends)
        assert (
            others < 0
            or layers - sum(ends) < others
            or (layers - sum(ends)) % max(others, 1 if ends else others)
            or (not others and layers != sum(ends))
        )
        return
    assert len(stages) == pp
    assert sum(stages) == layers
    assert min(stages) >= 1
    assert first is None or stages[0] == first
    assert last is None or stages[-1] == last
    between = stages[first is not None : len(stages) - (last is not None)]
    assert len(set(between)) <= 1


def test_llama_3_gives_the_ends_one_layer_fewer():
    layout = ParallelLayout(tp=8, pp=16, first_stage_layers=7, last_stage_layers=7, virtual_stages=8)
    assert layout.layers_per_stage(126) == [7, *[8] * 14, 7]
    layout.check_model(ModelSpec(num_layers=126, num_attention_heads=8, num_query_groups=8))


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        (ParallelLayout(ep=3), "layout.ep=3 does not divide moe.num_experts=8 (these do: 1, 2, 4, 8)"),
        (ParallelLayout(tp=2), "layout.tp=2 of a mixture of experts needs layout.sequence_parallel=true"),
        (
            ParallelLayout(tp=2, sequence_parallel=True),
            "layout.tp=2 does not divide moe.shared_expert_ffn_hidden_size=3",
        ),
    ],
)
def test_layouts_that_do_not_fit_experts(layout, message):
    model = ModelSpec(moe=MixtureOfExperts(shared_expert_ffn_hidden_size=3))
    with pytest.raises(LayoutError) as caught:
        layout.check_model(model)
    assert message in str(caught.value)


def test_experts_are_shared_out_over_a_pipeline_stage():
    assert ParallelLayout(ep=4, pp=2).resolve(8).dp == 4
    with pytest.raises(LayoutError, match=r"layout\.ep=4 does not divide the 2 ranks of a pipeline stage"):
        ParallelLayout(ep=4, pp=2).resolve(4)


def test_a_given_dp_must_be_the_right_one():
    assert ParallelLayout(tp=2, dp=0).resolve(4).dp == 2
    with pytest.raises(LayoutError, match=r"layout.dp=4 .* needs 8 workers, but num_workers=4"):
        ParallelLayout(tp=2, dp=4).resolve(4)


def test_interleaved_stages_need_micro_batches_in_groups_of_pp():
    layout = ParallelLayout(pp=2, virtual_stages=2, dp=1)
    assert layout.check_batch(64, 8, 2) == 4
    with pytest.raises(LayoutError, match=r"layout\.pp=2 does not divide the 3 micro-batches"):
        layout.check_batch(64, 6, 2)


def test_sequence_parallelism_divides_what_context_parallelism_leaves():
    layout = ParallelLayout(tp=4, cp=2, sequence_parallel=True, dp=1)
    assert layout.check_batch(32, 4, 1) == 4
    with pytest.raises(LayoutError, match="does not divide the 6 positions"):
        layout.check_batch(12, 4, 1)
