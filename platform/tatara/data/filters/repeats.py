"""Repeated n-grams of words: exact, in time linear in the text.

Words become numbers by interning (equal words, and no others, have equal numbers), then n-grams by interning pairs of
(n-gram that is one shorter, word). An n-gram can only be repeated where its first n-1 words are, so that each round
looks only at the places that are left; in ordinary prose few are after the second.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from tatara.data.filters.characters import Points

Spans = NDArray[np.int32]
_BASE = np.uint64(0x9E3779B97F4A7C15)
_MIX = np.uint64(0xFF51AFD7ED558CCD)


@njit(cache=True, nogil=True, inline="always")
def _mix(value: np.uint64) -> np.uint64:
    value ^= value >> np.uint64(32)
    value *= _MIX
    return value ^ (value >> np.uint64(29))


@njit(cache=True, nogil=True)
def intern_words(text: Points, starts: Spans, lengths: Spans) -> Spans:
    """A number for each word, the place of its first occurrence: ``[words]``."""
    count = len(starts)
    size = 16
    while size < 2 * count:
        size *= 2
    table = np.full(size, -1, np.int32)
    ids = np.empty(count, np.int32)
    for word in range(count):
        start, length = starts[word], lengths[word]
        value = np.uint64(length)
        for offset in range(length):
            value = (value ^ np.uint64(text[start + offset])) * _BASE
        slot = np.int64(_mix(value) & np.uint64(size - 1))
        while True:
            other = table[slot]
            if other < 0:
                table[slot] = word
                ids[word] = word
                break
            if lengths[other] == length:
                begin = starts[other]
                offset = 0
                while offset < length and text[begin + offset] == text[start + offset]:
                    offset += 1
                if offset == length:
                    ids[word] = other
                    break
            slot = (slot + 1) & (size - 1)
    return ids


@njit(cache=True, nogil=True)
def repeated_ngrams(words: Spans, lengths: Spans, sizes: Spans, wanted: Spans) -> tuple[Spans, Spans, Spans]:
    """Measures of repeated n-grams; 0 where none is repeated.

    Args:
        words: Number of each word: ``[words]``.
        lengths: Characters of each word: ``[words]``.
        sizes: Words in an n-gram, ascending: ``[sizes]``.
        wanted: What is measured of each size, a sum of 1 (``top``), 2 (``duplicate``), 4 (``covered``): ``[sizes]``.

    Returns:
        Of each size, ``[sizes]``: ``top``, characters in all occurrences of the most frequent n-gram (the first of
        several), spaces between its words included; ``duplicate``, characters of n-grams that occurred before,
        left to right, going on behind each; ``covered``, characters of words that lie in any n-gram that occurs twice.
    """
    count = len(words)
    top = np.zeros(len(sizes), np.int32)
    duplicate = np.zeros(len(sizes), np.int32)
    covered = np.zeros(len(sizes), np.int32)
    ends = np.zeros(count + 1, np.int32)
    for index in range(count):
        ends[index + 1] = ends[index] + lengths[index]
    grams = words.copy()
    alive = np.arange(count).astype(np.int32)
    occurs = np.zeros(count, np.int32)
    seen = np.zeros(count, np.int32)
    kept, turn = count, 0
    size = 16
    while size < 2 * count:
        size *= 2
    table = np.empty(size, np.int32)
    for n in range(1, sizes[-1] + 1 if len(sizes) else 0):
        if n > 1:
            kept = _extend(words, grams, alive, kept, n, table)
        kept = _repeated(grams, alive, kept, occurs)
        if not kept:
            break
        if sizes[turn] == n:
            if wanted[turn] & 1:
                top[turn] = _top(grams, alive, kept, occurs, ends, n)
            if wanted[turn] & 2:
                duplicate[turn] = _duplicate(grams, alive, kept, seen, ends, n)
            if wanted[turn] & 4:
                covered[turn] = _covered(alive, kept, ends, n)
            turn += 1
    return top, duplicate, covered


@njit(cache=True, nogil=True)
def _extend(words: Spans, grams: Spans, alive: Spans, kept: int, n: int, table: Spans) -> int:
    """Number the n-grams at places where the (n-1)-gram and the one behind it are repeated; both are necessary."""
    size = 16
    while size < 2 * kept:
        size *= 2
    mask = size - 1
    table[:size] = -1
    left = 0
    numbers = np.empty(kept, np.int32)
    for index in range(kept):
        place = alive[index]
        if place + n > len(words) or index + 1 >= kept or alive[index + 1] != place + 1:
            continue
        shorter, last = grams[place], words[place + n - 1]
        slot = np.int64(_mix((np.uint64(shorter) << np.uint64(32) | np.uint64(last)) * _BASE) & np.uint64(mask))
        while True:
            other = table[slot]
            if other < 0:
                table[slot] = place
                numbers[left] = place
                break
            # grams still holds the (n-1)-grams, which are compared here.
            if grams[other] == shorter and words[other + n - 1] == last:
                numbers[left] = other
                break
            slot = (slot + 1) & mask
        alive[left] = place
        left += 1
    for index in range(left):
        grams[alive[index]] = numbers[index]
    return left


@njit(cache=True, nogil=True)
def _repeated(grams: Spans, alive: Spans, kept: int, occurs: Spans) -> int:
    """Keep the places whose n-gram occurs more than once, and count the occurrences."""
    for index in range(kept):
        occurs[grams[alive[index]]] = 0
    for index in range(kept):
        occurs[grams[alive[index]]] += 1
    left = 0
    for index in range(kept):
        place = alive[index]
        if occurs[grams[place]] > 1:
            alive[left] = place
            left += 1
    return left


@njit(cache=True, nogil=True)
def _top(grams: Spans, alive: Spans, kept: int, occurs: Spans, ends: Spans, n: int) -> int:
    best = 0
    most = 0
    for index in range(kept):
        place = alive[index]
        if occurs[grams[place]] > most:
            most = occurs[grams[place]]
            best = place
    return (ends[best + n] - ends[best] + n - 1) * most


@njit(cache=True, nogil=True)
def _duplicate(grams: Spans, alive: Spans, kept: int, seen: Spans, ends: Spans, n: int) -> int:
    for index in range(kept):
        seen[grams[alive[index]]] = 0
    characters = 0
    free = 0
    for index in range(kept):
        place = alive[index]
        if place < free:
            continue
        if seen[grams[place]]:
            characters += ends[place + n] - ends[place]
            free = place + n
        else:
            seen[grams[place]] = 1
    return characters


@njit(cache=True, nogil=True)
def _covered(alive: Spans, kept: int, ends: Spans, n: int) -> int:
    characters = 0
    free = 0
    for index in range(kept):
        place = alive[index]
        characters += ends[place + n] - ends[max(place, free)]
        free = place + n
    return characters
