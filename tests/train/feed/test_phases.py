"""Windows of data that are left out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tatara.train.feed.phases import Skip, data_step, skip_to, training_step, windows

skips = st.lists(st.builds(Skip, at_step=st.integers(0, 40), steps=st.integers(1, 9)), max_size=5)


@given(skips=skips)
def test_nothing_is_trained_twice_and_only_the_windows_are_lost(skips):
    used = [data_step(step, skips) for step in range(60)]
    assert used == sorted(set(used))
    lost = {data for first, end in windows(skips) for data in range(first, end)}
    assert sorted({*used, *(data for data in lost if data < used[-1])}) == list(range(used[-1] + 1))
    assert not lost & set(used)
    assert sum(skip.steps for skip in skips) == len(lost)
    for data in range(used[-1] + 1):
        assert training_step(data, skips) == (None if data in lost else used.index(data))


@given(skips=skips, back_to=st.integers(0, 50), further=st.integers(1, 30))
def test_going_on_further_keeps_every_window_out(skips, back_to, further):
    begin = data_step(back_to, skips)
    after = skip_to(skips, back_to, begin + further)
    assert [data_step(step, after) for step in range(back_to)] == [data_step(step, skips) for step in range(back_to)]
    lost = {data for first, end in windows(after) for data in range(first, end)}
    assert lost == {data for first, end in [*windows(skips), (begin, begin + further)] for data in range(first, end)}
    assert data_step(back_to, after) >= begin + further


def test_skipping_to_what_comes_anyway_is_a_mistake():
    with pytest.raises(ValueError, match="data step 15 already"):
        skip_to((Skip(at_step=3, steps=5),), 10, 15)
