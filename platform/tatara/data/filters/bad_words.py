"""Drops documents with many words from lists that the user names."""

import hashlib
from pathlib import Path

from tatara.data.document import Document, Verdict
from tatara.data.filters.config_c4 import BadWordsConfig, BadWordsRules
from tatara.data.filters.matcher import Matcher
from tatara.data.filters.word_lists import existing, read_list
from tatara.data.filters.words import count_words
from tatara.data.steps import EachStep

_EVERY = "*"


class BadWords(EachStep):
    """Counts listed words; what the count may be is a density or, as in C4, none at all."""

    config: BadWordsConfig

    def __init__(self, config: BadWordsConfig, directory: Path) -> None:
        super().__init__(config, directory)
        self._matchers: dict[str | None, Matcher] = {}

    def prepare(self) -> None:
        """Read all lists once, so that a mistake in one is found before the work begins."""
        if self.config.lists:
            existing(self.config.lists)
        for language in (None, *self.config.by_language, *self.config.language_lists):
            self._matcher(language)

    def judge(self, document: Document) -> Verdict | None:
        """Count the words of the document's language, and of the lists for every language."""
        matcher = self._matcher(document.language)
        if not matcher.words:
            return None
        count = matcher.count(document.text)
        if not count:
            return None
        document.counts["bad_words.matches"] += count
        rules = self.config.parameters(document.language)
        verdict = _judge(document.text, count, rules)
        if verdict and rules.keep_fraction and self._draw(document.id) < rules.keep_fraction:
            document.counts["bad_words.kept"] += 1
            return None
        return verdict

    def _matcher(self, language: str | None) -> Matcher:
        found = self._matchers.get(language)
        if found is None:
            files = [Path(name) for name in self.config.language_lists.get(_EVERY, ())]
            if language:
                files += [Path(name) for name in self.config.language_lists.get(language, ())]
                if self.config.lists and language.isalnum():
                    files += existing(self.config.lists, f"{language}.txt", language)
            allowed = {word.lower() for word in self.config.parameters(language).allow}
            words = {word for file in files for word in read_list(file) if word.lower() not in allowed}
            found = self._matchers[language] = Matcher(words)
        return found

    def _draw(self, name: str) -> float:
        """A number from 0 to 1 that depends on the seed and the document's id alone."""
        key = f"{self.config.seed}:{name}".encode("utf-8", "surrogatepass")
        return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little") / 2**64


def _judge(text: str, count: int, rules: BadWordsRules) -> Verdict | None:
    if rules.max_matches is not None and count > rules.max_matches:
        return Verdict("bad_words.max_matches", count, rules.max_matches)
    if rules.max_density is not None:
        density = count / max(count_words(text), 1)
        if density > rules.max_density:
            return Verdict("bad_words.max_density", density, rules.max_density)
    return None
