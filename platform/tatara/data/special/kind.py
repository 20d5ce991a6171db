"""The step that says what kind of document it is."""

from tatara.data.document import Document, Verdict
from tatara.data.special.config import KindConfig
from tatara.data.special.languages import MATHEMATICS_SUFFIXES, language_of, path_of, suffix_of
from tatara.data.special.lines import figures
from tatara.data.steps import EachStep

_LOOKED_AT = 100_000


class Kind(EachStep):
    """See `KindConfig`; drops nothing. Of code, the label ``programming_language`` says the language if it is known."""

    config: KindConfig

    def judge(self, document: Document) -> Verdict | None:
        """Set the kind."""
        if document.content is not None:
            return None
        document.kind = (self.config.by_name and self._by_name(document)) or self._by_content(document)
        document.counts[f"kind.{document.kind}"] += 1
        return None

    def _by_name(self, document: Document) -> str | None:
        path = path_of(document)
        if path is not None and suffix_of(path) in MATHEMATICS_SUFFIXES:
            return "mathematics"
        language = language_of(document)
        if language is None:
            return None
        document.labels["programming_language"] = language
        return "code"

    def _by_content(self, document: Document) -> str:
        if not self.config.by_content:
            return document.kind
        found = figures(document.text[:_LOOKED_AT])
        if not found.characters:
            return "text"
        formulas = 1000 * (found.commands + found.dollars / 2 + found.operators) / found.characters
        # Shell and PHP are full of dollar signs; formulas without any command are rare.
        if formulas >= self.config.min_formulas and (found.commands or found.operators or found.dollars < 4):
            return "mathematics" if found.code < found.characters * 0.5 else "code"
        code, prose = found.code / found.characters, found.prose / found.characters
        return "code" if code >= self.config.min_code and prose <= self.config.max_prose else "text"
