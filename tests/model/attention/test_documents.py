import torch

from tatara.model.attention import context_slice, document_mask, zigzag_positions


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
