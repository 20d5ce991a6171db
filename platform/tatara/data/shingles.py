"""Hashes of word n-grams for many texts at once, in a few passes of numpy over their bytes."""

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_Hashes = NDArray[np.uint64]
_BASE = 0x9E3779B97F4A7C15
_BASE_INVERSE = pow(_BASE, -1, 1 << 64)
_GRAM_BASE = 0xD6E8FEB86659FD93
# Scripts without spaces between words: each character counts as a word.
_UNSPACED = re.compile(r"([\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff])")
_NO_WORD = re.compile(r"[\W_]+")
# ASCII that is neither letter nor digit separates words; of other characters only letters and digits are left by then.
_SEPARATE = bytes(code if code >= 128 or chr(code).isalnum() else 32 for code in range(256))


def normalise(text: str) -> str:
    """A text as deduplication compares it: case-folded, white space collapsed."""
    return " ".join(text.casefold().split())


def shingle_hashes(texts: Sequence[str], ngram: int) -> tuple[_Hashes, _Hashes]:
    """Hash every run of ``ngram`` words of each text; a shorter text is one shingle, an empty one none.

    Words are maximal runs of letters and digits of the normalised text.

    Args:
        texts: Normalised texts.
        ngram: Words per shingle.

    Returns:
        Hashes of all texts' shingles one after the other, and where each text's begin: ``[len(texts) + 1]``.
    """
    joined, ends = _join(texts)
    words, word_starts = _word_hashes(joined)
    # Words of text i are word_bounds[i] : word_bounds[i + 1].
    word_bounds = np.searchsorted(word_starts, np.concatenate(([0], ends)))
    counts = np.diff(word_bounds)
    sizes = np.where(counts >= ngram, counts - ngram + 1, np.minimum(counts, 1))
    bounds = np.zeros(len(texts) + 1, np.uint64)
    np.cumsum(sizes, out=bounds[1:])
    hashes = np.empty(int(bounds[-1]), np.uint64)
    if not len(hashes):
        return hashes, bounds
    grams = np.zeros(max(len(words) - ngram + 1, 0), np.uint64)
    for k in range(ngram):
        grams *= np.uint64(_GRAM_BASE)
        grams += words[k : k + len(grams)]
    starts = np.repeat(word_bounds[:-1], sizes) + _ranges(sizes)
    whole = np.repeat(counts >= ngram, sizes)
    hashes[whole] = grams[starts[whole]]
    for index in np.flatnonzero((counts < ngram) & (counts > 0)):
        value = np.uint64(0)
        with np.errstate(over="ignore"):
            for word in words[word_bounds[index] : word_bounds[index + 1]]:
                value = value * np.uint64(_GRAM_BASE) + word
        hashes[int(bounds[index])] = value
    return mix(hashes), bounds


def mix(values: _Hashes) -> _Hashes:
    """Spread every input bit over the output (the finaliser of MurmurHash3)."""
    values = values ^ (values >> np.uint64(33))
    values *= np.uint64(0xFF51AFD7ED558CCD)
    values ^= values >> np.uint64(33)
    values *= np.uint64(0xC4CEB9FE1A85EC53)
    return values ^ (values >> np.uint64(33))


def _join(texts: Sequence[str]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """All texts' bytes with word separators as spaces, and where each text ends."""
    encoded = []
    for text in texts:
        spaced = text if text.isascii() else _UNSPACED.sub(r" \1 ", _NO_WORD.sub(" ", text))
        encoded.append(spaced.encode("utf-8", errors="replace").translate(_SEPARATE) + b" ")
    ends = np.cumsum([len(item) for item in encoded], dtype=np.int64) if encoded else np.zeros(0, np.int64)
    return np.frombuffer(b"".join(encoded), np.uint8), ends


def _word_hashes(joined: NDArray[np.uint8]) -> tuple[_Hashes, NDArray[np.int64]]:
    """A hash of each word and where it starts: a polynomial in its bytes, from prefix sums modulo 2^64."""
    inside = joined != 32
    edges = np.diff(inside.astype(np.int8), prepend=0, append=0)
    starts, ends = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
    # sum(byte[j] * BASE^j) over a word, brought back to its start by BASE^-start: every word as if it began at 0.
    powers = _powers(_BASE, len(joined))
    powers *= joined
    prefix = np.zeros(len(joined) + 1, np.uint64)
    np.cumsum(powers, out=prefix[1:])
    hashes = prefix[ends] - prefix[starts]
    hashes *= _powers(_BASE_INVERSE, len(joined))[starts] if len(joined) else np.uint64(1)
    # Mixing removes the linearity of the polynomial before words are summed up again.
    return mix(hashes), starts


def _powers(base: int, count: int) -> _Hashes:
    powers = np.full(count, base, np.uint64)
    if count:
        powers[0] = 1
    return np.cumprod(powers, out=powers)


def _ranges(sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """0..sizes[0]-1, 0..sizes[1]-1, ..."""
    total = int(sizes.sum())
    return np.arange(total) - np.repeat(np.cumsum(sizes) - sizes, sizes)
