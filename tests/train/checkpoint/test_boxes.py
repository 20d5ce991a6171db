"""Flat ranges as boxes, against numpy's own indexing."""

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tatara.train.checkpoint.boxes import boxes_of


@given(st.lists(st.integers(1, 5), max_size=4), st.data())
def test_boxes_are_the_range_in_order(shape, data):
    size = math.prod(shape)
    start = data.draw(st.integers(0, size))
    end = data.draw(st.integers(start, size))
    whole = np.arange(size).reshape(shape)
    boxes = boxes_of(shape, start, end)
    found = [whole[tuple(slice(o, o + s) for o, s in zip(*box, strict=True))].ravel() for box in boxes]
    assert np.concatenate([np.zeros(0, int), *found]).tolist() == list(range(start, end))
    assert len(boxes) <= max(1, 2 * len(shape) - 1)
