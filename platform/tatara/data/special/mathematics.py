"""The step with the rules for mathematical text."""

from collections.abc import Iterator

from tatara.data.document import Document, Verdict
from tatara.data.special.config import MathematicsConfig
from tatara.data.special.latex import figures
from tatara.data.steps import EachStep

# One or two may be slips of the author, or prices.
_COUNTED = ("max_broken", "max_empty")
_MIN_COUNT = 3


class Mathematics(EachStep):
    """See `MathematicsConfig`; changes nothing."""

    config: MathematicsConfig

    def judge(self, document: Document) -> Verdict | None:
        """Drop what is broken, empty, or hardly text."""
        return next(self._rules(document), None)

    def _rules(self, document: Document) -> Iterator[Verdict]:
        config, found = self.config, figures(document.text)
        for key, count, total in (
            ("max_broken", found.broken, found.delimiters),
            ("max_empty", found.empty, found.formulas),
            ("max_formulas", found.inside, found.filled),
            ("max_numbers", found.digits, found.filled),
        ):
            limit = getattr(config, key)
            if limit is not None and count > limit * total and (key not in _COUNTED or count >= _MIN_COUNT):
                yield Verdict(f"mathematics.{key}", count / max(total, 1), limit)
        if config.min_words is not None and found.words < config.min_words:
            yield Verdict("mathematics.min_words", found.words, config.min_words)
