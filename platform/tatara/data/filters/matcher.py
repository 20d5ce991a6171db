"""Finds the words of a list in a text in one pass, however long the list (Aho and Corasick 1975).

Matches in words are kept out by looking at the characters next to a match, so that "class" does not hold its last three
letters, nor リュックサック what it ends with.
"""

from collections import deque
from collections.abc import Iterable

import numpy as np
from numba import njit
from numpy.typing import NDArray

from tatara.data.filters.characters import HIRAGANA, KANJI, KATAKANA, SPACE, WORD, Classes, Points, classes, points
from tatara.errors import DataError

Integers = NDArray[np.int32]
Alphabet = NDArray[np.uint16]
_SHORT = 2
# Of four bytes each. Ten thousand words of English take a million, of Japanese thirty.
_MOST_CELLS = 64_000_000


class Matcher:
    """A list of words and phrases, ready to be found.

    Args:
        words: What to find, without regard to case.
        whole: Whether a match must not be part of a longer word. Next to an end of a word that is a letter or digit of
            a script with spaces there must be no other; next to katakana no katakana. Kanji and hiragana run together
            with what follows, so that only single kanji and hiragana words of up to two characters ask for a
            neighbour of another kind.

    Raises:
        DataError: The words are too many, and too different, for a table of all their beginnings.
    """

    def __init__(self, words: Iterable[str], whole: bool = True) -> None:
        self.words = sorted({" ".join(word.lower().split()) for word in words} - {""})
        patterns = [points(word) for word in self.words]
        self._alphabet, self._letters = _alphabet(patterns)
        self._next, self._ended, self._number, self._link = _automaton(
            [self._alphabet[pattern].tolist() for pattern in patterns], self._letters
        )
        self._sizes = np.array([len(pattern) for pattern in patterns], np.int32)
        self._shortest = min(map(len, patterns), default=1)
        sides = [_neighbours(pattern) if whole else (0, 0) for pattern in patterns]
        self._left = np.array([left for left, _ in sides], np.uint8)
        self._right = np.array([right for _, right in sides], np.uint8)

    def find(self, text: str) -> tuple[Integers, Integers]:
        """Where words occur that do not overlap, and which: the one that ends first, of those the longest.

        Args:
            text: Where to look; in lower case, for case is told apart here.

        Returns:
            Positions (those in ``text``) and numbers in ``words``: ``[matches]`` each.
        """
        if not self.words:
            return np.zeros(0, np.int32), np.zeros(0, np.int32)
        return _scan(
            points(text), classes(), self._alphabet, self._next, self._letters, self._ended, self._number, self._link,
            self._sizes, self._left, self._right, len(text) // self._shortest,
        )  # fmt: skip

    def count(self, text: str) -> int:
        """How many words occur that do not overlap, in text of any case."""
        return len(self.find(text.lower())[0])


def _neighbours(pattern: Points) -> tuple[int, int]:
    """Classes of characters that must not stand before and after a match."""
    table = classes()
    kinds = [int(table[point]) for point in pattern]
    short = 0
    if len(kinds) == 1:
        short = KANJI
    if len(kinds) <= _SHORT and all(kind & HIRAGANA for kind in kinds):
        short = HIRAGANA
    asked = WORD | KATAKANA | short
    return kinds[0] & asked, kinds[-1] & asked


def _alphabet(patterns: list[Points]) -> tuple[Alphabet, int]:
    """A small number for each character that occurs, 0 for the others, and how many numbers there are."""
    used = np.unique(np.concatenate(patterns)) if patterns else np.zeros(0, np.uint32)
    if len(used) >= 1 << 16:
        raise DataError(f"a list of words has {len(used)} different characters: is it one?")
    numbers = np.zeros(len(classes()), np.uint16)
    numbers[used] = np.arange(1, len(used) + 1)
    # Any white space stands for the space in a phrase.
    numbers[(classes() & SPACE) != 0] = numbers[ord(" ")]
    return numbers, len(used) + 1


def _automaton(patterns: list[list[int]], letters: int) -> tuple[Integers, Integers, Integers, Integers]:
    """The automaton of Aho and Corasick as a table.

    Args:
        patterns: The words, as numbers of characters.
        letters: How many numbers there are.

    Returns:
        Row (a state times ``letters``) plus character to the next row, or its complement where a word ends there:
        ``[states * letters]``. Of each state, ``[states]``: the state of the longest word that ends there, that word's
        number, and the state of the next shorter word that ends there.
    """
    children: list[dict[int, int]] = [{}]
    number = [-1]
    for index, pattern in enumerate(patterns):
        state = 0
        for letter in pattern:
            state = children[state].setdefault(letter, len(number))
            if state == len(number):
                children.append({})
                number.append(-1)
        number[state] = index
    if len(number) * letters > _MOST_CELLS:
        raise DataError(f"a list of {len(patterns)} words with {letters} different characters is too long: split it")
    table = np.zeros((len(number), letters), np.int32)
    link, ended = np.zeros(len(number), np.int32), np.zeros(len(number), np.int32)
    # Each state with the longest proper suffix of it that is a state too, shorter ones first.
    waiting = deque([(0, 0)])
    while waiting:
        state, suffix = waiting.popleft()
        link[state] = ended[suffix]
        ended[state] = state if number[state] >= 0 else ended[suffix]
        if state:
            table[state] = table[suffix]
        for letter, child in children[state].items():
            waiting.append((child, int(table[suffix, letter]) if state else 0))
            table[state, letter] = child
    rows = table * np.int32(letters)
    np.invert(rows, out=rows, where=ended[table] > 0)
    return rows.ravel(), ended, np.array(number, np.int32), link


@njit(cache=True, nogil=True)
def _scan(
    text: Points, table: Classes, alphabet: Alphabet, following: Integers, letters: int, ended: Integers,
    number: Integers, link: Integers, sizes: Integers, left: NDArray[np.uint8], right: NDArray[np.uint8], most: int,
) -> tuple[Integers, Integers]:  # fmt: skip
    places = np.empty(most, np.int32)
    numbers = np.empty(most, np.int32)
    count = free = 0
    row = np.int64(0)
    for index in range(len(text)):
        row = np.int64(following[np.uint64(row) + np.uint64(alphabet[text[index]])])
        if row >= 0:
            continue
        row = ~row
        word = ended[row // letters]
        while word > 0:
            each = number[word]
            start = index + 1 - sizes[each]
            before = table[text[start - 1]] if start > 0 else np.uint8(0)
            after = table[text[index + 1]] if index + 1 < len(text) else np.uint8(0)
            if start >= free and not before & left[each] and not after & right[each]:
                places[count] = start
                numbers[count] = each
                count += 1
                free = index + 1
                break
            word = link[word]
    return places[:count].copy(), numbers[:count].copy()
