"""From occurrences of n-grams to matches: how much of a benchmark's text one place in a document holds."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tatara.data.decontaminate.index import Arrays
from tatara.data.decontaminate.tokens import Places, Words

_MOST_PLACES = 256
"""Places of one n-gram that are looked at in one document: text that repeats itself must not cost its square."""


@dataclass(frozen=True)
class Match:
    """What one place in a document has in common with a benchmark's text.

    Attributes:
        text: Number of the text.
        covered: Which of its words match: ``[words of the text]``.
        matched: How many of those that are checked match.
        longest: How many of them in one unbroken match.
        of: How many are checked.
        start: First word of the place, counted in the document.
        stop: The word after it.
    """

    text: int
    covered: NDArray[np.bool_]
    matched: int
    longest: int
    of: int
    start: int
    stop: int


def checked_words(arrays: Arrays) -> Places:
    """How many words of each text lie in n-grams that are looked for: ``[texts]``."""
    total = np.concatenate(([0], np.cumsum(arrays.checked)))
    return np.asarray(total[arrays.bounds[1:]] - total[arrays.bounds[:-1]], np.int64)


def matches(
    words: Words, places: Places, grams: Places, arrays: Arrays, checked: Places, skip: int
) -> Iterator[tuple[int, list[Match]]]:
    """Matches of each document that has any, in order.

    Args:
        words: Of the documents.
        places: First word of each n-gram found, from `find_grams`.
        grams: Which n-gram it is.
        arrays: The index.
        checked: From `checked_words`.
        skip: Replaced words in a row that a match goes past.

    Yields:
        Number of the document, and every match by text and place.
    """
    places, grams = _first_places(words, places, grams)
    counts = arrays.post_bounds[grams + 1] - arrays.post_bounds[grams]
    starts = np.repeat(arrays.post_bounds[grams], counts)
    within = np.arange(len(starts)) - np.repeat(np.cumsum(counts) - counts, counts)
    posts, places = np.asarray(arrays.posts[starts + within]), np.repeat(places, counts)
    texts = np.searchsorted(arrays.bounds, posts, side="right") - 1
    documents = np.searchsorted(words.bounds, places, side="right") - 1
    order = np.lexsort((posts, places, texts, documents))
    texts, documents, places, posts = texts[order], documents[order], places[order], posts[order]
    sizes = np.diff(arrays.bounds)[texts]
    # What lies further apart than a text is long is another place.
    new = (np.diff(texts, prepend=-1) != 0) | (np.diff(documents, prepend=-1) != 0)
    new |= np.diff(places, prepend=0) > sizes
    cuts = np.append(np.flatnonzero(new), len(texts)).tolist()
    found: list[Match] = []
    current = -1
    for begin, end in itertools.pairwise(cuts):
        document = int(documents[begin])
        if document != current:
            if found:
                yield current, found
            current, found = document, []
        found.append(
            _match(int(texts[begin]), document, places[begin:end], posts[begin:end], words, arrays, checked, skip)
        )
    if found:
        yield current, found


def _first_places(words: Words, places: Places, grams: Places) -> tuple[Places, Places]:
    if len(places) <= _MOST_PLACES:
        return places, grams
    documents = np.searchsorted(words.bounds, places, side="right") - 1
    order = np.lexsort((places, grams, documents))
    new = (np.diff(grams[order], prepend=-1) != 0) | (np.diff(documents[order], prepend=-1) != 0)
    starts = np.flatnonzero(new)
    rank = np.arange(len(order)) - np.repeat(starts, np.diff(np.append(starts, len(order))))
    keep = np.sort(order[rank < _MOST_PLACES])
    return places[keep], grams[keep]


def _match(
    text: int, document: int, places: Places, posts: Places, words: Words, arrays: Arrays, checked: Places, skip: int
) -> Match:
    first, last = int(arrays.bounds[text]), int(arrays.bounds[text + 1])
    begin, end = int(words.bounds[document]), int(words.bounds[document + 1])
    low, high = end, begin
    wanted = np.asarray(arrays.checked[first:last]).tolist()
    theirs = np.asarray(arrays.words[first:last]).tolist()
    taken: dict[int, int] = {}  # Word of the text to word of the document.
    longest = 0
    for shift, start, stop in _runs(places, posts - first, int(arrays.length[text])):
        if taken.get(start) == start + shift:  # Another run led here already.
            continue
        pairs = [(word, word + shift) for word in range(start, stop)]
        place, after = start + shift, stop + shift
        # Every word that is passed over is followed by an equal one: twice the rest of the text is far enough.
        ours = words.hashes[after : min(end, after + 2 * (len(theirs) - stop) + skip)].tolist()
        pairs += [(stop + word, after + where) for word, where in _reach(theirs[stop:], ours, skip)]
        ours = words.hashes[max(begin, place - 2 * start - skip) : place][::-1].tolist()
        pairs += [(start - 1 - word, place - 1 - where) for word, where in _reach(theirs[:start][::-1], ours, skip)]
        taken.update(pair for pair in pairs if wanted[pair[0]])
        longest = max(longest, sum(wanted[word] for word, _ in pairs))
        low, high = min(low, min(where for _, where in pairs)), max(high, max(where for _, where in pairs))
    covered = np.zeros(last - first, bool)
    covered[list(taken)] = True
    return Match(text, covered, len(taken), longest, int(checked[text]), low - begin, high + 1 - begin)


def _runs(places: Places, positions: Places, length: int) -> Iterator[tuple[int, int, int]]:
    """Overlapping n-grams on one diagonal as one: (document's word less text's word, first word of the text, after)."""
    shifts = places - positions
    order = np.lexsort((positions, shifts))
    shifts, positions = shifts[order], positions[order]
    new = (np.diff(shifts, prepend=shifts[0] - 1) != 0) | (np.diff(positions, prepend=0) > length)
    cuts = np.append(np.flatnonzero(new), len(shifts)).tolist()
    runs = [
        (int(shifts[begin]), int(positions[begin]), int(positions[end - 1]) + length)
        for begin, end in itertools.pairwise(cuts)
    ]
    # The longest first: what it leads to need not be followed again.
    yield from sorted(runs, key=lambda run: (run[1] - run[2], run))


def _reach(theirs: list[int], ours: list[int], skip: int) -> list[tuple[int, int]]:
    """Pairs of equal words from here on, past gaps of at most ``skip`` words, each followed by a longer equal run."""
    pairs: list[tuple[int, int]] = []
    word = where = 0
    gaps = [(lost, cost - lost) for cost in range(1, 2 * skip + 1) for lost in range(cost + 1)]
    gaps = [gap for gap in gaps if max(gap) <= skip]
    while True:
        while word < len(theirs) and where < len(ours) and theirs[word] == ours[where]:
            pairs.append((word, where))
            word, where = word + 1, where + 1
        for lost, added in gaps:
            run = max(lost, added) + 1
            left, right = theirs[word + lost : word + lost + run], ours[where + added : where + added + run]
            if len(left) == run and left == right:
                word, where = word + lost, where + added
                break
        else:
            return pairs
