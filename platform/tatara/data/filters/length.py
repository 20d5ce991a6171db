"""Drops documents that are too short to judge, or too long."""

from tatara.data.document import Document, Verdict
from tatara.data.filters.config import LengthConfig
from tatara.data.steps import EachStep


class Length(EachStep):
    """Drops texts with too few or too many characters."""

    config: LengthConfig

    def judge(self, document: Document) -> Verdict | None:
        """Compare the number of characters with the limits."""
        size, config = len(document.text), self.config
        if size < config.min_characters:
            return Verdict("length.min_characters", size, config.min_characters)
        if config.max_characters is not None and size > config.max_characters:
            return Verdict("length.max_characters", size, config.max_characters)
        return None
