"""Quality rules of Gopher (Rae et al. 2021, appendix A.1.1)."""

from pathlib import Path

from tatara.data.document import Document, Verdict
from tatara.data.filters.characters import UNSPACED, classes
from tatara.data.filters.config_gopher import GopherQualityConfig, GopherQualityRules
from tatara.data.filters.words import Shapes, word_shapes
from tatara.data.steps import EachStep

_ELLIPSES = ("...", "…")
_EDGES = ".,;:!?\"'()[]{}<>`*_«»“”‘’„¿¡…–—"
# Function words are frequent: if they occur, then hardly ever only after so many characters.
_FIRST_LOOK = 300


class StopWords:
    """Finds how many of a language's stop words a text has."""

    def __init__(self, words: tuple[str, ...]) -> None:
        table = classes()
        self.inside = [word for word in words if any(table[ord(character)] & UNSPACED for character in word)]
        self.whole = frozenset(word.lower() for word in words) - frozenset(self.inside)

    def found(self, text: str, enough: int) -> int:
        """How many different ones occur, counted until there are enough."""
        if len(text) > 2 * _FIRST_LOOK:
            # The last word may be cut: it is not looked at.
            cut = max(text.rfind(" ", 0, _FIRST_LOOK), text.rfind("\n", 0, _FIRST_LOOK))
            if cut > 0 and self._count(text[:cut], enough) >= enough:
                return enough
        return self._count(text, enough)

    def _count(self, text: str, enough: int) -> int:
        count = 0
        for word in self.inside:
            count += word in text
            if count >= enough:
                return count
        if self.whole:
            found = {word.strip(_EDGES) for word in text.lower().split()} & self.whole
            count += len(found)
        return count


class GopherQuality(EachStep):
    """Lengths and kinds of words, shapes of lines, and stop words."""

    config: GopherQualityConfig

    def __init__(self, config: GopherQualityConfig, directory: Path) -> None:
        super().__init__(config, directory)
        self._stop_words: dict[tuple[str, ...], StopWords] = {}

    def judge(self, document: Document) -> Verdict | None:
        """Apply Gopher's rules in the paper's order."""
        rules = self.config.parameters(document.language)
        shapes = word_shapes(document.text)
        return (
            _word_counts(shapes, rules)
            or _lines(document.text, rules)
            or _letters(shapes, rules)
            or self._stop(document.text, rules)
        )

    def _stop(self, text: str, rules: GopherQualityRules) -> Verdict | None:
        if not rules.min_stop_words or not rules.stop_words:
            return None
        words = self._stop_words.get(rules.stop_words)
        if words is None:
            words = self._stop_words[rules.stop_words] = StopWords(rules.stop_words)
        count = words.found(text, rules.min_stop_words)
        if count < rules.min_stop_words:
            return Verdict("gopher_quality.min_stop_words", count, rules.min_stop_words)
        return None


def _word_counts(shapes: Shapes, rules: GopherQualityRules) -> Verdict | None:
    if shapes.plain < rules.min_words:
        return Verdict("gopher_quality.min_words", shapes.plain, rules.min_words)
    if shapes.plain > rules.max_words:
        return Verdict("gopher_quality.max_words", shapes.plain, rules.max_words)
    if shapes.plain:
        mean = shapes.plain_characters / shapes.plain
        if mean < rules.min_mean_word_length:
            return Verdict("gopher_quality.min_mean_word_length", mean, rules.min_mean_word_length)
        if mean > rules.max_mean_word_length:
            return Verdict("gopher_quality.max_mean_word_length", mean, rules.max_mean_word_length)
    if shapes.words:
        symbols = max(shapes.hashes, shapes.ellipses) / shapes.words
        if symbols > rules.max_symbol_ratio:
            return Verdict("gopher_quality.max_symbol_ratio", symbols, rules.max_symbol_ratio)
    return None


def _lines(text: str, rules: GopherQualityRules) -> Verdict | None:
    # Blank lines count, as they do in datatrove.
    lines = text.splitlines()
    if not lines:
        return None
    if any(bullet in text for bullet in rules.bullets):
        bullets = sum(line.lstrip().startswith(rules.bullets) for line in lines) / len(lines)
        if bullets > rules.max_bullet_lines:
            return Verdict("gopher_quality.max_bullet_lines", bullets, rules.max_bullet_lines)
    if "..." in text or "…" in text:
        ellipses = sum(line.rstrip().endswith(_ELLIPSES) for line in lines) / len(lines)
        if ellipses > rules.max_ellipsis_lines:
            return Verdict("gopher_quality.max_ellipsis_lines", ellipses, rules.max_ellipsis_lines)
    return None


def _letters(shapes: Shapes, rules: GopherQualityRules) -> Verdict | None:
    if shapes.words and shapes.lettered < rules.min_alphabetic_words * shapes.words:
        return Verdict(
            "gopher_quality.min_alphabetic_words", shapes.lettered / shapes.words, rules.min_alphabetic_words
        )
    return None
