"""The step with the rules for source files."""

from collections.abc import Iterator
from pathlib import Path

from tatara.data.document import Document, Verdict
from tatara.data.special import syntax
from tatara.data.special.config import CodeConfig
from tatara.data.special.generated import generated, vendored
from tatara.data.special.languages import MARKUP, language_of, path_of
from tatara.data.special.licences import allowed, licence_of
from tatara.data.special.lines import Lines, figures
from tatara.data.steps import EachStep

_MIN_VISIBLE = 100
_XML_HEAD = 100
_DATA = frozenset(("json", "yaml"))
_MINIFIED = frozenset(("javascript", "css"))
_MINIFIED_MEAN = 110
_MIN_UNMATCHED = 3


class Code(EachStep):
    """See `CodeConfig`; labels documents with ``programming_language`` and ``licence`` where they are known."""

    config: CodeConfig

    def __init__(self, config: CodeConfig, directory: Path) -> None:
        super().__init__(config, directory)
        self.licences = frozenset(name.lower() for name in config.licences or ())

    def judge(self, document: Document) -> Verdict | None:
        """Drop what is not source code worth reading, or may not be used."""
        path = path_of(document)
        language = document.labels.get("programming_language") or language_of(document)
        if language is not None:
            document.labels["programming_language"] = language
        return next(self._rules(document, path, language), None)

    def _rules(self, document: Document, path: str | None, language: str | None) -> Iterator[Verdict]:
        """Verdicts, the cheapest first."""
        config = self.config
        yield from self._licence(document)
        if config.drop_vendored and vendored(path):
            yield Verdict("code.drop_vendored")
        found = figures(document.text)
        if config.drop_generated:
            # Linguist's rule for scripts without line breaks.
            if language in _MINIFIED and found.filled and found.characters / found.filled > _MINIFIED_MEAN:
                yield Verdict("code.drop_generated", found.characters / found.filled, _MINIFIED_MEAN)
            if generated(document.text, path):
                yield Verdict("code.drop_generated")
        yield from self._characters(found, language)
        if language in MARKUP:
            yield from self._markup(document.text, found, language or "")
        elif config.drop_xml and "<?xml version=" in document.text[:_XML_HEAD]:
            yield Verdict("code.drop_xml")
        if language is not None:
            yield from self._syntax(document.text, language)

    def _licence(self, document: Document) -> Iterator[Verdict]:
        licence = licence_of(document)
        if licence is not None:
            document.labels["licence"] = licence[:100]
        if self.config.licences is None:
            return
        if licence is None:
            if not self.config.keep_unknown_licence:
                yield Verdict("code.keep_unknown_licence")
        elif not allowed(licence, self.licences):
            yield Verdict("code.licences")

    def _characters(self, found: Lines, language: str | None) -> Iterator[Verdict]:
        config, total = self.config, max(found.characters, 1)
        if language not in MARKUP:
            mean = found.characters / max(found.lines, 1)
            if config.max_line_length is not None and found.longest > config.max_line_length:
                yield Verdict("code.max_line_length", found.longest, config.max_line_length)
            if config.max_mean_line_length is not None and mean > config.max_mean_line_length:
                yield Verdict("code.max_mean_line_length", mean, config.max_mean_line_length)
        for key, value in (
            ("min_alphanumeric", found.alphanumeric / total),
            ("min_alphabetic", found.alphabetic / total),
        ):
            limit = getattr(config, key)
            # Data have a limit of their own.
            if limit is not None and value < limit and language not in _DATA:
                yield Verdict(f"code.{key}", value, limit)
        if config.max_encoded_run is not None and found.longest_encoded > config.max_encoded_run:
            yield Verdict("code.max_encoded_run", found.longest_encoded, config.max_encoded_run)

    def _markup(self, text: str, found: Lines, language: str) -> Iterator[Verdict]:
        config = self.config
        if config.drop_xml and "<?xml version=" in text[:_XML_HEAD] and "<xsl:stylesheet" not in text[:2000]:
            yield Verdict("code.drop_xml")
        if language == "html" and config.min_visible_html is not None:
            visible = syntax.visible_characters(text)
            if visible < _MIN_VISIBLE or visible / len(text) < config.min_visible_html:
                yield Verdict("code.min_visible_html", visible / max(len(text), 1), config.min_visible_html)
        if language not in _DATA:
            return
        if config.min_data_characters is not None and len(text) < config.min_data_characters:
            yield Verdict("code.min_data_characters", len(text), config.min_data_characters)
        if config.max_data_characters is not None and len(text) > config.max_data_characters:
            yield Verdict("code.max_data_characters", len(text), config.max_data_characters)
        share = found.alphabetic / max(found.characters, 1)
        if config.min_data_alphabetic is not None and share < config.min_data_alphabetic:
            yield Verdict("code.min_data_alphabetic", share, config.min_data_alphabetic)

    def _syntax(self, text: str, language: str) -> Iterator[Verdict]:
        config = self.config
        comments, unbalanced, unmatched = syntax.scan(text, language)
        if language not in MARKUP:
            if config.max_comment_ratio is not None and comments > config.max_comment_ratio:
                yield Verdict("code.max_comment_ratio", comments, config.max_comment_ratio)
            if config.min_comment_ratio is not None and comments < config.min_comment_ratio:
                yield Verdict("code.min_comment_ratio", comments, config.min_comment_ratio)
        if config.max_unbalanced is not None and unbalanced > config.max_unbalanced and unmatched >= _MIN_UNMATCHED:
            yield Verdict("code.max_unbalanced", unbalanced, config.max_unbalanced)
        if config.syntax and len(text) <= config.max_parse_bytes:
            parses = {"python": syntax.parses_as_python, "json": syntax.parses_as_json}.get(language)
            if parses is not None and not parses(text):
                yield Verdict("code.syntax")
