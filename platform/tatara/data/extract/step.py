"""The step that turns raw pages into text."""

from tatara.data.document import Document, Verdict
from tatara.data.extract.config import ExtractConfig
from tatara.data.extract.pages import extract
from tatara.data.steps import EachStep


class ExtractStep(EachStep):
    """Extracts the main text of documents that are raw pages."""

    config: ExtractConfig

    def judge(self, document: Document) -> Verdict | None:
        """Put a page's main text in place of the page; drop it where too little is found."""
        if document.content is None:
            return None
        found = extract(document.content, self.config, document.content_type, document.url)
        document.text, document.encoding, document.content = found.text, found.encoding, None
        for key in ("title", "author", "date"):
            value = getattr(found, key)
            if value and not document.metadata.get(key):
                document.metadata[key] = value
        characters = len(found.text)
        if characters < self.config.min_characters:
            return Verdict("extract.min_characters", characters, self.config.min_characters)
        return None
