"""Every kernel against the loop over documents, with context-parallel ranks one after the other in one process."""

import math
from functools import cache, partial
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention.flex_attention import flex_attention

from model.attention import oracle
from model.attention.test_pieces import rows as any_rows
from tatara.model.attention import cpu, flex, varlen, zigzag_positions
from tatara.model.attention.pieces import Work


def flash_as_documented(query, key, value, call, scale):
    """What flash-attention's varlen function promises (its README, 2.1): causal masks end in the lower right corner."""
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    repeats = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)
    assert call.query_bounds.dtype == call.key_bounds.dtype == torch.int32
    assert (call.query_bounds[-1], call.key_bounds[-1]) == (len(query), len(key))
    assert call.longest == (int(call.query_bounds.diff().max()), int(call.key_bounds.diff().max()))
    parts = []
    for index in range(len(call.query_bounds) - 1):
        q = query[call.query_bounds[index] : call.query_bounds[index + 1]]
        k, v = (t[call.key_bounds[index] : call.key_bounds[index + 1]] for t in (key, value))
        visible = torch.ones(len(q), len(k), dtype=torch.bool).tril(len(k) - len(q))
        scores = torch.einsum("qhd,khd->hqk", q, k) * scale
        parts.append(torch.einsum("hqk,khd->qhd", scores.masked_fill(~visible, -math.inf).softmax(-1), v))
    return torch.cat(parts)


KERNELS = {
    "cpu": cpu.attend,
    "sdpa": partial(varlen.attend, kernel=varlen.sdpa),
    "flash": partial(varlen.attend, kernel=flash_as_documented),
}


def ranks(attend, tensors, rows, cp, scale=None):
    """Output and gradients of all ranks together, as `oracle.expected` gives them."""
    *leaves, weights = tensors
    leaves = [t.detach().clone().requires_grad_() for t in leaves]
    query, key, value = leaves
    output = torch.zeros_like(query)
    for rank in range(cp):
        mine = zigzag_positions(oracle.LENGTH, cp, rank)
        work = Work(oracle.bounds(rows), len(rows), oracle.LENGTH, cp, rank)
        output = output.index_copy(1, mine, attend(query[:, mine], key, value, work, scale))
    (output * weights).sum().backward()
    return [output.detach(), *(leaf.grad for leaf in leaves)]


@cache
def of_the_loop(groups, layout):
    """Inputs, and what the loop makes of them."""
    tensors = oracle.inputs(groups)
    return tensors, oracle.expected(tensors, oracle.LAYOUTS[layout])


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("layout", oracle.LAYOUTS)
@pytest.mark.parametrize("cp", [1, 2, 4])
def test_results_and_gradients_are_those_of_the_loop(kernel, layout, cp):
    rows = oracle.LAYOUTS[layout]
    for groups in (1, 2, 4):
        tensors, expected = of_the_loop(groups, layout)
        found = ranks(KERNELS[kernel], tensors, rows, cp)
        for each, wanted in zip(found, expected, strict=True):
            assert oracle.error(each, wanted) < 1e-5


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_scale_is_the_one_given(kernel):
    tensors, rows = oracle.inputs(2), oracle.LAYOUTS["crossing"]
    found = ranks(KERNELS[kernel], tensors, rows, 2, scale=0.7)
    for each, wanted in zip(found, oracle.expected(tensors, rows, scale=0.7), strict=True):
        assert oracle.error(each, wanted) < 1e-5


@pytest.mark.parametrize("layout", oracle.LAYOUTS)
@pytest.mark.parametrize("cp", [1, 2])
def test_flex_sees_what_documents_allow(layout, cp):
    rows = oracle.LAYOUTS[layout]
    *tensors, _ = oracle.inputs(2)
    output = torch.zeros_like(tensors[0])
    for rank in range(cp):
        mine = zigzag_positions(oracle.LENGTH, cp, rank)
        work = Work(oracle.bounds(rows), len(rows), oracle.LENGTH, cp, rank)
        output[:, mine] = flex.attend(tensors[0][:, mine], *tensors[1:], work, None, function=flex_attention)
    assert oracle.error(output, oracle.attention(*tensors, rows)) < 1e-5


@given(lengths=st.lists(st.integers(1, 700), min_size=1, max_size=12), cp=st.sampled_from([1, 2]))
@settings(max_examples=15)
def test_flex_leaves_out_no_block_and_masks_every_block_that_is_not_full(lengths, cp):
    lengths = [*lengths, 4 - sum(lengths) % 4]
    total = sum(lengths)
    for rank in range(cp):
        mask = flex.block_mask(Work(oracle.bounds([lengths]), 1, total, cp, rank), torch.device("cpu"))
        ids = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
        mine = zigzag_positions(total, cp, rank)
        allowed = (ids[mine][:, None] == ids) & (mine[:, None] >= torch.arange(total))
        blocks = torch.nn.functional.pad(allowed, (0, -total % 128, 0, -len(mine) % 128))
        blocks = blocks.unflatten(1, (-1, 128)).unflatten(0, (-1, 128)).transpose(1, 2).flatten(2)
        assert not (blocks.any(2) & ~(_listed(mask, "kv") | _listed(mask, "full_kv"))).any()
        # Queries that pad the last block are nobody's.
        full = _listed(mask, "full_kv")[: len(mine) // 128]
        assert not (full & ~blocks.all(2)[: len(full)]).any()
        assert not (_listed(mask, "kv") & _listed(mask, "full_kv")).any()


def _listed(mask, kind):
    """Blocks in a list of the mask, as a boolean matrix."""
    counts, columns = getattr(mask, f"{kind}_num_blocks")[0, 0], getattr(mask, f"{kind}_indices")[0, 0]
    listed = torch.zeros(columns.shape, dtype=torch.bool)
    for row, count in enumerate(counts.tolist()):
        listed[row, columns[row, :count].long()] = True
    return listed


@given(data=st.data(), cp=st.sampled_from([1, 2, 4]), groups=st.sampled_from([1, 2, 4]))
@settings(max_examples=20)
def test_no_document_has_any_influence_on_another(data, cp, groups):
    """All other documents get other tokens and other lengths: outputs and gradients of the one stay the same bits."""
    rows = data.draw(any_rows())[:1]
    kept = data.draw(st.integers(0, len(rows[0]) - 1))
    start = sum(rows[0][:kept])
    end = start + rows[0][kept]
    other = [[*_recut(data, start), rows[0][kept], *_recut(data, oracle.LENGTH - end)]]
    one, two = oracle.inputs(groups, batch=1), oracle.inputs(groups, batch=1, seed=1)
    for mine, theirs in zip(one, two, strict=True):
        theirs[:, start:end] = mine[:, start:end]
    for before, after in zip(ranks(cpu.attend, one, rows, cp), ranks(cpu.attend, two, other, cp), strict=True):
        assert torch.equal(before[:, start:end], after[:, start:end])


def _recut(data, length):
    """Lengths of other documents in the place of these."""
    cuts = sorted(data.draw(st.sets(st.integers(1, max(length - 1, 1)), max_size=8)) - {length})
    return [end - begin for begin, end in pairwise([0, *cuts, length])] if length else []


def test_bfloat16_is_as_good_as_its_own_rounding():
    tensors, rows = oracle.inputs(2), oracle.LAYOUTS["crossing"]
    rounded = [t.bfloat16() for t in tensors]
    wanted = oracle.expected(rounded, rows)
    for each, right in zip(ranks(cpu.attend, rounded, rows, 2), wanted, strict=True):
        assert each.dtype == torch.bfloat16
        assert oracle.error(each, right) < 0.01


def test_results_are_the_same_bits_again():
    tensors, rows = oracle.inputs(2), oracle.LAYOUTS["crossing"]
    once, again = (ranks(cpu.attend, tensors, rows, 2) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))
