"""Raw files to documents: one bad record or file is set aside with its reason and place, never the end of a run."""

import importlib
from collections.abc import Callable, Iterator

from tatara.data.document import Document, Quarantined
from tatara.data.raw_file import RawFile
from tatara.data.read.config import ReadConfig
from tatara.data.read.streams import is_connection_error
from tatara.errors import StorageError

Reader = Callable[[RawFile, ReadConfig], Iterator[Document | Quarantined]]

_READERS = {
    "jsonl": "jsonl:read_jsonl",
    "json": "json_values:read_json",
    "parquet": "parquet:read_parquet",
    "text": "plain:read_text",
    "html": "pages:read_html",
    "warc": "warc:read_warc",
    "wiki": "wiki:read_wiki",
    "python": "packages:read_python",
    "description": "packages:read_description",
    "topics": "packages:read_topics",
}
# ArrowInvalid is a ValueError; a file may be cut short or not be what its name says.
_FAULTS_OF_A_FILE = (OSError, EOFError, ValueError, SyntaxError, RecursionError, StorageError)


def read_file(file: RawFile, config: ReadConfig) -> Iterator[Document | Quarantined]:
    """Yield what a file, or a part of one, holds, in order.

    Args:
        file: The file.
        config: Which columns are what, bounds, and what is wanted.

    Raises:
        StorageError: The connection to the storage failed: that says nothing about the file, so it is not set aside.
    """
    module, _, name = _READERS[file.kind].partition(":")
    reader: Reader = getattr(importlib.import_module(f"tatara.data.read.{module}"), name)
    try:
        yield from reader(file, config)
    except Exception as error:
        if is_connection_error(error):
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            raise StorageError(f"cannot read {file.url}: {reason}; run again to continue") from None
        if not isinstance(error, _FAULTS_OF_A_FILE):
            raise
        yield Quarantined(file.source, None, _reason(error), file.size)


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "vanished after the run had begun"
    return " ".join(str(error).split())[:300] or type(error).__name__
