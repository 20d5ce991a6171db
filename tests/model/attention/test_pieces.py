from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from model.attention import oracle
from tatara.model.attention import document_mask, zigzag_positions
from tatara.model.attention.pieces import Work, read_bounds


@st.composite
def rows(draw, length=oracle.LENGTH):
    """Lengths of the documents of one or two rows."""
    cuts = draw(st.lists(st.sets(st.integers(1, length - 1), max_size=30), min_size=1, max_size=2))
    ends = [[0, *sorted(row), length] for row in cuts]
    return [[end - start for start, end in pairwise(row)] for row in ends]


@given(rows=rows(), cp=st.sampled_from([1, 2, 4]))
def test_pieces_hold_every_pair_that_documents_and_causality_allow_once(rows, cp):
    ids = oracle.document_ids(rows)
    seen = torch.zeros(len(rows), oracle.LENGTH, oracle.LENGTH, dtype=torch.int)
    for rank in range(cp):
        work = Work(read_bounds(document_mask(ids)), len(rows), oracle.LENGTH, cp, rank)
        mine = zigzag_positions(oracle.LENGTH, cp, rank)
        for piece in work.pieces():
            (first, end), (start, last) = piece.queries, piece.keys
            for offset, query in enumerate(range(first, end)):
                seen[slice(*piece.rows), mine[query], start : last - (end - first) + offset + 1] += 1
    causal = torch.ones(oracle.LENGTH, oracle.LENGTH, dtype=torch.bool).tril()
    assert torch.equal(seen, ((ids[:, :, None] == ids[:, None, :]) & causal).int())


def test_work_follows_documents_and_not_the_square_of_the_row():
    def scores(lengths, cp, rank):
        pieces = Work(oracle.bounds([lengths]), 1, sum(lengths), cp, rank).pieces()
        return sum((p.queries[1] - p.queries[0]) * (p.keys[1] - p.keys[0]) for p in pieces)

    whole = scores([4096], 1, 0)
    assert scores([64] * 64, 1, 0) * 64 == whole
    # Of one document, every rank has the same share, and together they have less than the square.
    shares = {scores([4096], 4, rank) for rank in range(4)}
    assert len(shares) == 1
    assert shares.pop() * 4 < 0.6 * whole


def test_a_mask_of_part_of_the_row_is_refused():
    with pytest.raises(ValueError, match="give document_mask the full rows"):
        Work((0, 5, 48), 1, 96, 2, 0)
    with pytest.raises(ValueError, match="must be what document_mask made"):
        read_bounds(torch.zeros(2, 1, 4, 4))
