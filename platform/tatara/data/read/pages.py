"""HTML files: one raw page each."""

from collections.abc import Iterator

from tatara.data.document import Document, Quarantined
from tatara.data.raw_file import RawFile
from tatara.data.read.config import ReadConfig
from tatara.data.read.records import too_large
from tatara.data.read.streams import open_stream


def read_html(file: RawFile, config: ReadConfig) -> Iterator[Document | Quarantined]:
    """The page as it is; the step ``extract`` finds out its encoding and its text."""
    with open_stream(file) as stream:
        content = stream.read(config.max_document_bytes + 1)
        size = len(content)
        while size > config.max_document_bytes and (more := stream.read(1 << 20)):
            size += len(more)
    if size > config.max_document_bytes:
        yield Quarantined(file.source, None, too_large(size, config), size)
        return
    name = file.source.lower()
    kind = "application/xhtml+xml" if ".xhtml" in name or ".xht" in name else "text/html"
    yield Document(file.source, "", file.source, content=content, content_type=kind)
