"""How often each document occurs in training."""

from collections.abc import Sequence
from fnmatch import fnmatchcase

import numpy as np
from numpy.typing import NDArray

from tatara.data.packing.config import LongDocuments


def occurrences(
    rules: Sequence[LongDocuments],
    lengths: NDArray[np.int64],
    repeats: NDArray[np.int64],
    source: NDArray[np.int64],
    sources: Sequence[str],
) -> NDArray[np.int64]:
    """Apply the rules on long documents.

    Args:
        rules: The first one that fits a document holds.
        lengths: Tokens of each document: ``[documents]``.
        repeats: How often each occurs without the rules: ``[documents]``.
        source: Number of each document's source: ``[documents]``.
        sources: Name of each source: ``[sources]``.
    """
    factor = np.ones(len(lengths), np.int64)
    open_ = np.ones(len(lengths), bool)
    for rule in rules:
        named = np.array([any(fnmatchcase(name, pattern) for pattern in rule.sources) for name in sources], bool)
        fits = open_ & (lengths >= rule.min_tokens)
        if len(sources):
            fits &= named[source]
        factor[fits] = rule.repeat
        open_ &= ~fits
    result: NDArray[np.int64] = repeats * factor
    return result
