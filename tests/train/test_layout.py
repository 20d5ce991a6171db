"""Layout arithmetic, against brute force."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tatara.errors import LayoutError
from tatara.model.spec import ModelSpec
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
        (ParallelLayout(pp=2, virtual_stages=4), "layout.pp=2 x layout.virtual_stages=4 does not divide num_layers=4"),
        (ParallelLayout(ep=2), "layout.ep=2 needs a mixture-of-experts model"),
    ],
)
def test_messages_name_the_field(layout, message):
    with pytest.raises(LayoutError, match=message.replace("(", r"\(")):
        layout.check_model(ModelSpec())


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
