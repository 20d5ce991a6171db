"""Attention in float64, one document at a time, that knows nothing of masks, chunks or kernels; and inputs for it."""

import math
from itertools import accumulate, pairwise

import torch

LENGTH = 96
# Two rows each: the lengths of their documents. Borders of chunks lie at multiples of 12, 24 and 48.
LAYOUTS = {
    "one": [[96], [96]],
    "crossing": [[5, 40, 1, 17, 33], [60, 3, 33]],
    "tiny": [[1] * 26 + [50, 19, 1], [1, 2, 3, 4, 6, 8, 7, 5] * 2 + [24]],
    "padding": [[30, 16, 44, 6], [12, 36, 48]],
}


def document_ids(rows):
    """`[batch, sequence]`; the last document of the first row is padding if there are several."""
    ids = torch.stack([torch.arange(len(row)).repeat_interleave(torch.tensor(row)) for row in rows])
    if len(rows[0]) > 1:
        ids[0, -rows[0][-1] :] = -1
    return ids


def bounds(rows):
    """What `document_mask` says about the rows."""
    if all(len(row) == 1 for row in rows):
        return None
    return tuple(accumulate((length for row in rows for length in row), initial=0))


def inputs(groups, heads=4, batch=2, dim=16, seed=0):
    """Query, key, value and the weights of the loss, `[batch, sequence, heads, head_dim]`."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(batch, LENGTH, n, dim, generator=generator) for n in (heads, groups, groups, heads)]


def attention(query, key, value, rows, scale=None):
    """`[batch, sequence, heads, head_dim]` in and out, float64, differentiable."""
    query, key, value = query.double(), key.double(), value.double()
    repeats = query.shape[2] // key.shape[2]
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    output = []
    for row, lengths in enumerate(rows):
        parts = []
        for start, end in pairwise(accumulate(lengths, initial=0)):
            q = query[row, start:end].transpose(0, 1)
            k, v = (t[row, start:end].transpose(0, 1).repeat_interleave(repeats, 0) for t in (key, value))
            scores = q @ k.transpose(1, 2) * scale
            future = torch.ones(end - start, end - start, dtype=torch.bool).triu(1)
            parts.append((torch.softmax(scores.masked_fill(future, -math.inf), -1) @ v).transpose(0, 1))
        output.append(torch.cat(parts))
    return torch.stack(output)


def expected(tensors, rows, scale=None):
    """Output and gradients of query, key and value, for the loss of the weighted sum."""
    *leaves, weights = tensors
    leaves = [t.double().detach().requires_grad_() for t in leaves]
    output = attention(*leaves, rows, scale)
    (output * weights).sum().backward()
    return [output.detach(), *(leaf.grad for leaf in leaves)]


def error(found, wanted):
    """Largest difference relative to the largest value."""
    return float((found.double() - wanted).abs().max() / wanted.abs().max())
