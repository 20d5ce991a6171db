"""Texts as exact deduplication compares them: case folded, white space collapsed."""

from collections.abc import Sequence

import numpy as np
from numba import njit
from numpy.typing import NDArray

from tatara.data.dedup.documents import encode

_SPACE = np.array([chr(code).isspace() for code in range(128)] + [False] * 128)
_FOLD = np.array([ord(chr(code).lower()) if code < 128 else code for code in range(256)], np.uint8)


def normal_bytes(texts: Sequence[str], case: bool = True, space: bool = True) -> list[bytes]:
    """``" ".join(text.casefold().split())`` of each text, as bytes.

    Args:
        texts: The texts.
        case: Whether to fold case.
        space: Whether to collapse white space.
    """
    found = [b""] * len(texts)
    plain = [index for index, text in enumerate(texts) if text.isascii()]
    for index in set(range(len(texts))) - set(plain):
        text = texts[index].casefold() if case else texts[index]
        found[index] = encode(" ".join(text.split()) if space else text)
    encoded = [texts[index].encode("ascii") for index in plain]
    bounds = np.zeros(len(encoded) + 1, np.int64)
    np.cumsum([len(each) for each in encoded], out=bounds[1:])
    joined = np.frombuffer(b"".join(encoded), np.uint8)
    made, ends = _normalise(joined, bounds, _FOLD if case else np.arange(256, dtype=np.uint8), _SPACE, space)
    view = memoryview(made)
    for place, index in enumerate(plain):
        found[index] = bytes(view[bounds[place] : ends[place]])
    return found


@njit(
    "Tuple((u1[::1], i8[::1]))(Array(u1, 1, 'C', readonly=True), i8[::1], u1[::1], b1[::1], b1)", cache=True, nogil=True
)
def _normalise(
    joined: NDArray[np.uint8],
    bounds: NDArray[np.int64],
    fold: NDArray[np.uint8],
    blank: NDArray[np.bool_],
    space: bool,
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    made = np.empty(len(joined), np.uint8)
    ends = np.empty(len(bounds) - 1, np.int64)
    for index in range(len(ends)):
        place = bounds[index]
        pending = False
        for byte in joined[bounds[index] : bounds[index + 1]]:
            if space and blank[byte]:
                pending = place > bounds[index]
                continue
            if pending:
                made[place] = 32
                place += 1
                pending = False
            made[place] = fold[byte]
            place += 1
        ends[index] = place
    return made, ends
