"""Words of texts as hashes with their places, and where n-grams of an index occur among them."""

import sys
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from tatara.data.shingles import mix

Hashes = NDArray[np.uint64]
Places = NDArray[np.int64]
Table = NDArray[np.uint32]

_SEPARATOR, _IGNORED = 0, 1
_UNSPACED_FLAG = 1 << 31
_TABLE_SIZE = 0x32400  # Past the last block of Chinese characters; what lies beyond is no letter.
_UNSPACED = (
    (0x0E00, 0x0F00), (0x0F00, 0x1000), (0x1000, 0x10A0), (0x1780, 0x1800), (0x3005, 0x3008), (0x3040, 0x3100),
    (0x31F0, 0x3200), (0x3400, 0x4DC0), (0x4E00, 0xA000), (0xF900, 0xFB00), (0x1B000, 0x1B170), (0x20000, _TABLE_SIZE),
)  # fmt: skip
# Accents and voiced-sound marks that stand alone after decomposition, joiners, soft hyphens, variation selectors.
_IGNORED_RANGES = (
    (0xAD, 0xAE), (0x300, 0x370), (0x3099, 0x309B), (0x200B, 0x200E), (0x2060, 0x2061), (0xFE00, 0xFE10),
    (0xFEFF, 0xFF00), (0xFF9E, 0xFFA0),
)  # fmt: skip

_BASE = 0xD6E8FEB86659FD93
_U64 = (1 << 64) - 1
_GRAM_BASE = np.uint64(_BASE)
_SEED, _PRIME = np.uint64(0xCBF29CE484222325), np.uint64(0x100000001B3)
_MIX_A, _MIX_B, _SHIFT = np.uint64(0xFF51AFD7ED558CCD), np.uint64(0xC4CEB9FE1A85EC53), np.uint64(33)
_FLAG, _ZERO, _SIX, _LOW_SIX = np.uint32(_UNSPACED_FLAG), np.uint32(0), np.uint32(6), np.uint32(0x3F)
_ONE_IGNORED = np.uint32(_IGNORED)
_BITS, _ONE_BIT, _LENGTH_STEP = np.uint64(3), np.uint8(1), np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Words:
    """The words of some texts, one text after the other.

    Attributes:
        hashes: A hash of each word: ``[words]``.
        starts: First byte of each word in the texts' joined UTF-8: ``[words]``.
        ends: The byte after it: ``[words]``.
        bounds: Which words are a text's: ``[texts + 1]``.
        offsets: Where each text begins in the joined bytes: ``[texts + 1]``.
    """

    hashes: Hashes
    starts: NDArray[np.uint32]
    ends: NDArray[np.uint32]
    bounds: Places
    offsets: Places


def folding_table() -> Table:
    """What each code point counts as: 0 separates words, 1 is passed over, else the folded letter or digit.

    Letters lose their case, width and accents. Those of scripts without spaces carry the highest bit: each is a word.
    """
    codes = np.zeros(_TABLE_SIZE, np.uint32)
    for code in range(_TABLE_SIZE):
        if code < 0x3400 or 0xA000 <= code < 0xAC00 or 0xD7A4 <= code < 0x20000 or 0x2F800 <= code < 0x2FA20:
            codes[code] = _folded(chr(code))
        else:  # Chinese characters and Korean syllables are letters and fold to themselves.
            codes[code] = code if chr(code).isalnum() else _SEPARATOR
    for start, stop in _UNSPACED:
        block = codes[start:stop]
        block[block > _IGNORED] |= np.uint32(_UNSPACED_FLAG)
    # Half-width and compatibility letters become letters of an unspaced script too.
    target = (codes & np.uint32(_UNSPACED_FLAG - 1)).astype(np.int64)
    codes[codes > _IGNORED] |= codes[target][codes > _IGNORED] & np.uint32(_UNSPACED_FLAG)
    return codes


def _folded(character: str) -> int:
    code = ord(character)
    if any(start <= code < stop for start, stop in _IGNORED_RANGES):
        return _IGNORED
    parts = unicodedata.normalize("NFKD", character)
    base = parts[0]
    if not all(any(start <= ord(mark) < stop for start, stop in _IGNORED_RANGES) for mark in parts[1:]):
        whole = unicodedata.normalize("NFKC", character)
        base = whole if len(whole) == 1 else character
    lower = base.casefold()
    base = lower if len(lower) == 1 else base
    # Signs such as the vowels of Hindi are parts of words.
    return ord(base) if base.isalnum() or unicodedata.category(base)[0] == "M" else _SEPARATOR


def split_words(texts: Sequence[str], table: Table) -> Words:
    """Hash every word of some texts: letters and digits between anything else, or a character of an unspaced script."""
    encoded = [text.encode("utf-8", errors="surrogatepass") for text in texts]
    offsets = np.zeros(len(texts) + 1, np.int64)
    np.cumsum([len(item) for item in encoded], out=offsets[1:])
    data = np.frombuffer(b"".join(encoded), np.uint8)
    # A word takes a byte and a separator, or three bytes; each text may end with a word.
    room = len(data) // 2 + len(texts) + 1
    hashes, starts, ends = np.empty(room, np.uint64), np.empty(room, np.uint32), np.empty(room, np.uint32)
    bounds = np.zeros(len(texts) + 1, np.int64)
    _split(data, offsets, table, hashes, starts, ends, bounds)
    count = int(bounds[-1])
    return Words(hashes[:count], starts[:count], ends[:count], bounds, offsets)


def gram_hashes(words: Hashes, length: int) -> Hashes:
    """Hashes of every run of ``length`` words, as `find_grams` computes them: ``[words - length + 1]``."""
    grams = np.zeros(max(len(words) - length + 1, 0), np.uint64)
    for start in range(length):
        grams *= _GRAM_BASE
        grams += words[start : start + len(grams)]
    return mix(grams + np.uint64(length * int(_LENGTH_STEP) & _U64))


def bitmap_of(grams: Hashes, per_hash: int = 32) -> NDArray[np.uint8]:
    """A bit for each hash's last bits, in a power of two of at least ``per_hash`` bits per hash."""
    bits = max(16, int(max(len(grams), 1) * per_hash - 1).bit_length())
    return _bitmap(grams & np.uint64((1 << bits) - 1), bits)


def coarse_bitmap_of(grams: Hashes) -> NDArray[np.uint8]:
    """A bit for each hash's leading bits, at least four per hash: an independent answer from a cache-sized map."""
    bits = max(16, int(max(len(grams), 1) * 4 - 1).bit_length())
    return _bitmap(grams >> np.uint64(64 - bits), bits)


def _bitmap(slots: Hashes, bits: int) -> NDArray[np.uint8]:
    bitmap = np.zeros(1 << (bits - 3), np.uint8)
    np.bitwise_or.at(bitmap, (slots >> _BITS).astype(np.int64), (1 << (slots & np.uint64(7))).astype(np.uint8))
    return bitmap


def find_grams(
    words: Words, lengths: Sequence[int], coarse: NDArray[np.uint8], bitmap: NDArray[np.uint8], grams: Hashes
) -> tuple[Places, Places]:
    """Where n-grams of an index occur.

    Args:
        words: Of the texts.
        lengths: The index's n-gram lengths.
        coarse: From `coarse_bitmap_of` the index's hashes.
        bitmap: From `bitmap_of` the same.
        grams: The index's hashes, ascending.

    Returns:
        First word, and which n-gram, of each occurrence; by text and place.
    """
    sizes = np.asarray(sorted(lengths), np.int64)
    powers = np.asarray([pow(_BASE, int(size), 1 << 64) for size in sizes], np.uint64)
    steps = np.asarray([int(size) * int(_LENGTH_STEP) & _U64 for size in sizes], np.uint64)
    shift = np.uint64(64 - (len(coarse) * 8 - 1).bit_length())
    index = (coarse, shift, bitmap, np.uint64(len(bitmap) * 8 - 1), grams)
    room = 1 << 12
    while True:
        places, found = np.empty(room, np.int64), np.empty(room, np.int64)
        count = _find(words.hashes, words.bounds, sizes, powers, steps, *index, places, found)
        if count <= room:
            return places[:count], found[:count]
        room = count


@njit(cache=True, nogil=True)
def _mixed(value):  # type: ignore[no-untyped-def]
    value ^= value >> _SHIFT
    value *= _MIX_A
    value ^= value >> _SHIFT
    value *= _MIX_B
    return value ^ (value >> _SHIFT)


@njit(cache=True, nogil=True)
def _split(data, offsets, table, hashes, starts, ends, bounds):  # type: ignore[no-untyped-def]
    count = 0
    for text in range(len(offsets) - 1):
        place, stop = offsets[text], offsets[text + 1]
        inside, state = False, _SEED
        while place < stop:
            here = place
            byte = np.uint32(data[place])
            if byte < 0x80:
                code = byte
                place += 1
            elif byte < 0xE0:
                code = ((byte & np.uint32(0x1F)) << _SIX) | (np.uint32(data[place + 1]) & _LOW_SIX)
                place += 2
            else:
                wide = byte >= 0xF0
                code = (byte & np.uint32(0x07 if wide else 0x0F)) << _SIX | (np.uint32(data[place + 1]) & _LOW_SIX)
                code = code << _SIX | (np.uint32(data[place + 2]) & _LOW_SIX)
                place += 3
                if wide:
                    code = code << _SIX | (np.uint32(data[place]) & _LOW_SIX)
                    place += 1
            kind = table[code] if code < len(table) else _ZERO
            if kind == _ONE_IGNORED:
                continue
            if kind == _ZERO or kind & _FLAG:
                if inside:
                    hashes[count] = _mixed(state)
                    count += 1
                    inside = False
                if kind != _ZERO:
                    hashes[count] = _mixed((_SEED ^ np.uint64(kind)) * _PRIME)
                    starts[count], ends[count] = here, place
                    count += 1
                continue
            if not inside:
                inside, state = True, _SEED
                starts[count] = here
            state = (state ^ np.uint64(kind)) * _PRIME
            ends[count] = place
        if inside:
            hashes[count] = _mixed(state)
            count += 1
        bounds[text + 1] = count


@njit(cache=True, nogil=True)
def _find(words, bounds, sizes, powers, steps, coarse, shift, bitmap, mask, grams, places, found):  # type: ignore[no-untyped-def]
    count = 0
    longest = 0
    for text in range(len(bounds) - 1):
        longest = max(longest, bounds[text + 1] - bounds[text])
    prefix = np.empty(longest + 1, np.uint64)
    prefix[0] = 0
    for text in range(len(bounds) - 1):
        first = bounds[text]
        for word in range(bounds[text + 1] - first):
            prefix[word + 1] = prefix[word] * _GRAM_BASE + words[first + word]
            for which in range(len(sizes)):
                start = word + 1 - sizes[which]
                if start < 0:
                    break
                value = _mixed(prefix[word + 1] - prefix[start] * powers[which] + steps[which])
                slot = value >> shift
                if not (coarse[np.int64(slot >> _BITS)] >> np.uint8(slot & np.uint64(7))) & _ONE_BIT:
                    continue
                slot = value & mask
                if not (bitmap[np.int64(slot >> _BITS)] >> np.uint8(slot & np.uint64(7))) & _ONE_BIT:
                    continue
                low, high = 0, len(grams)
                while low < high:
                    middle = (low + high) >> 1
                    if grams[middle] < value:
                        low = middle + 1
                    else:
                        high = middle
                if low < len(grams) and grams[low] == value:
                    if count < len(places):
                        places[count], found[count] = first + start, low
                    count += 1
    return count


def is_unspaced(text: str, words: int, table: Table) -> bool:
    """Whether most of a text's words are single characters of a script without spaces."""
    order = "utf-32-le" if sys.byteorder == "little" else "utf-32-be"
    codes = np.frombuffer(text.encode(order, errors="surrogatepass"), np.uint32)
    codes = codes[codes < len(table)]
    return 2 * int(np.count_nonzero(table[codes] & np.uint32(_UNSPACED_FLAG))) > words
