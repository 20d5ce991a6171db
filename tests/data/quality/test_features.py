"""Hashed n-grams against a plain reference."""

import time

import hypothesis
import numpy as np
from hypothesis import strategies

from tatara.data.quality.features import hashed

_MASK = (1 << 64) - 1


def _mix(value: int) -> int:
    value = ((value ^ (value >> 32)) * 0x9E3779B97F4A7C15) & _MASK
    return value ^ (value >> 29)


def _alone(character: str) -> bool:
    """Whether a character is a unit of its own: scripts without spaces, punctuation outside of ASCII, pictures."""
    code = ord(character)
    ranges = (
        (0x0E00, 0x0EFF),
        (0x1000, 0x10BF),
        (0x1780, 0x17FF),
        (0x2000, 0x207F),
        (0x2180, 0x2FFF),
        (0x3000, 0x9FFF),
    )
    ranges += ((0xF900, 0xFFFF), (0x1F000, 0x3FFFF))
    return any(first <= code <= last for first, last in ranges)


def _reference(text: str, bits: int, ngrams: int) -> list[int]:
    units: list[tuple[str, bool]] = []
    last = " "
    for character in text:
        if _alone(character):
            units.append((character, True))
            kind = " "
        elif ord(character) >= 128 or character.isalnum() or character == "_":
            folded = "0" if character in "0123456789" else character.lower() if ord(character) < 128 else character
            if last == "letter":
                units[-1] = (units[-1][0] + folded, False)
            else:
                units.append((folded, False))
            kind = "letter"
        elif character == "\n" or (character > " " and character != "\x7f"):
            if last != character:
                units.append((character, False))
            kind = character
        else:
            kind = " "
        last = kind
    hashes = []
    for unit, _ in units:
        value = 0xCBF29CE484222325
        for byte in unit.encode("utf-8", "surrogatepass"):
            value = ((value ^ byte) * 0x100000001B3) & _MASK
        hashes.append(_mix(value))
    out = []
    for place, value in enumerate(hashes):
        out.append(value)
        if ngrams > 1 and place:
            out.append(_mix((hashes[place - 1] * 0x100000001B3 + value) & _MASK))
        if ngrams > 1 and place > 1 and all(alone for _, alone in units[place - 2 : place + 1]):
            both = (hashes[place - 2] * 0x100000001B3 + hashes[place - 1]) & _MASK
            out.append(_mix((both * 0x100000001B3 + value) & _MASK))
    return [value >> (64 - bits) for value in out]


def _check(text: str) -> None:
    for ngrams in (1, 2):
        found, ends = hashed([text], 20, ngrams)
        assert found.tolist() == _reference(text, 20, ngrams)
        assert ends.tolist() == [found.size]


_ALPHABET = "aB_9 .-\n\t\x00é東京アΩ。！ก“→😀\ud800\uffff\U000e0001"


@hypothesis.given(strategies.text(_ALPHABET) | strategies.text())
def test_features_are_those_of_the_reference(text: str) -> None:
    _check(text)


def test_units_of_real_text() -> None:
    _check("The cat--sat, 1989!!\n\n\n東京タワーは“高い”。\tnaïve café x_1 \x7f ราคา 100 บาท ထ")


def test_texts_together_are_the_texts_alone() -> None:
    texts = ["a b c", "", "東京都", "  ", "x" * 1000, "a b c"]
    found, ends = hashed(texts, 18)
    pieces = np.split(found, ends[:-1])
    for text, piece in zip(texts, pieces, strict=True):
        assert piece.tolist() == hashed([text], 18)[0].tolist()


def test_time_is_linear_in_the_length_of_the_text() -> None:
    for unit in ("a", "a ", "東", "\n", "-", "1.", "\x80"):
        times = []
        for size in (100_000, 800_000):
            text = unit * (size // len(unit))
            tries = []
            for _ in range(3):
                started = time.process_time()
                hashed([text], 20)
                tries.append(time.process_time() - started)
            times.append(min(tries))
        assert times[1] < 24 * times[0] + 0.02
