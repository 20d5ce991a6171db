"""Against a loop in float64 that knows nothing of masks, chunks or groups."""

import math

import pytest
import torch

from model import attention_cases
from model.ranks import run_ranks
from tatara.model.attention import context_slice, document_mask, zigzag_positions


def reference(query, key, value, document_ids):
    """Attention one query at a time, `[sequence, batch, heads, head_dim]` in, `[sequence, batch, heads * dim]` out."""
    query, key, value = query.double(), key.double(), value.double()
    sequence, batch, heads, dim = query.shape
    per_group = heads // key.shape[2]
    output = torch.zeros(sequence, batch, heads, dim, dtype=torch.float64)
    for row in range(batch):
        for head in range(heads):
            for position in range(sequence):
                seen = [at for at in range(position + 1) if document_ids[row, at] == document_ids[row, position]]
                keys = key[seen, row, head // per_group]
                weights = torch.softmax(keys @ query[position, row, head] / math.sqrt(dim), 0)
                output[position, row, head] = weights @ value[seen, row, head // per_group]
    return output.flatten(2)


@pytest.fixture(scope="module")
def inputs():
    return attention_cases.inputs()


@pytest.mark.parametrize("packed", [True, False])
def test_documents_do_not_see_each_other(inputs, packed):
    query, key, value, ids = inputs
    ids = ids if packed else torch.zeros_like(ids)
    ((output, gradients),) = run_ranks(1, attention_cases.attend, 1, packed)
    for tensor in (query, key, value):
        tensor.grad = None
    expected = reference(query, key, value, ids)
    expected.square().sum().backward()
    assert (output - expected).abs().max() < 1e-5
    for gradient, tensor in zip(gradients, (query, key, value), strict=True):
        assert (gradient - tensor.grad).abs().max() < 1e-4


@pytest.mark.parametrize("packed", [True, False])
def test_two_context_parallel_ranks_compute_what_one_does(inputs, packed):
    ((whole, gradients),) = run_ranks(1, attention_cases.attend, 1, packed)
    parts = run_ranks(2, attention_cases.attend, 2, packed)
    for rank, (output, part_gradients) in enumerate(parts):
        mine = zigzag_positions(whole.shape[0], 2, rank)
        assert (output - whole[mine]).abs().max() < 1e-5
        for gradient, expected in zip(part_gradients, gradients, strict=True):
            assert (gradient - expected[mine]).abs().max() < 1e-4


def test_zigzag_covers_every_position_once_and_balances_the_causal_work():
    positions = [zigzag_positions(48, 4, rank) for rank in range(4)]
    assert sorted(torch.cat(positions).tolist()) == list(range(48))
    assert len({int(part.sum()) for part in positions}) == 1


def test_a_slice_is_what_zigzag_says():
    row = torch.arange(16)[None]
    assert context_slice(row, 2, 1)[0].tolist() == zigzag_positions(16, 2, 1).tolist() == [*range(4, 12)]
    assert context_slice(row, 1, 0) is row


def test_rows_of_one_document_need_no_mask():
    assert document_mask(torch.tensor([[0, 0, 0], [7, 7, 7]])) is None


def test_document_bounds_span_rows_and_start_anew_with_each():
    bounds = document_mask(torch.tensor([[0, 0, 1, 1], [1, 1, 1, -1]]))
    assert bounds is not None
    assert bounds.tolist() == [0, 2, 4, 7, 8]
    assert bounds.dtype == torch.int32
