"""Records with named fields (JSONL, Parquet) to documents."""

from typing import Any

from tatara.data.document import Document
from tatara.data.raw_file import RawFile
from tatara.data.read.config import ReadConfig


def document_of(
    record: dict[str, Any], position: str, file: RawFile, config: ReadConfig, encoding: str = "utf-8"
) -> Document | str:
    """A document of a record; what is wrong with the record if it holds none.

    Args:
        record: Column to value; it is taken over, and changed.
        position: Where it is in its file.
        file: The file.
        config: Which columns are what.
        encoding: How the record was decoded.
    """
    text, content = record.get(config.text_column), None
    if config.html_column is not None and config.html_column in record:
        content = record.pop(config.html_column)
        if isinstance(content, str):
            content, text = content.encode("utf-8", errors="replace"), ""
        elif isinstance(content, bytes):
            text = ""
        else:
            return f"'{config.html_column}' is neither a string nor bytes"
    if not isinstance(text, str):
        return no_text(config, record)
    size = len(content) if content is not None else _bytes(text, config.max_document_bytes)
    if size > config.max_document_bytes:
        return too_large(size, config)
    record.pop(config.text_column, None)
    own, url = record.pop(config.id_column, None), record.pop(config.url_column, None)
    language = record.pop(config.language_column, None) if config.language_column else None
    return Document(
        id=f"{file.source}#{position}" if own is None or own == "" else str(own),
        text=text,
        source=file.source,
        url=None if url is None else str(url),
        metadata=record,
        encoding=encoding,
        content=content,
        content_type=None if content is None else "text/html; charset=utf-8",
        language=str(language) if language else None,
    )


def no_text(config: ReadConfig, record: dict[str, Any]) -> str:
    """Why a record has no text: the column is missing, or of another type."""
    there = ", ".join(sorted(map(str, record))[:20]) or "none"
    if config.text_column in record:
        return f"'{config.text_column}' is not a string"
    return f"no column '{config.text_column}'; columns: {there} (set text_column)"


def too_large(size: int, config: ReadConfig) -> str:
    """The reason for a document above the bound."""
    return f"a document of {size:,} bytes is larger than max_document_bytes ({config.max_document_bytes:,})"


def without_surrogates(value: Any) -> Any:
    """A value with lone surrogates, which are legal in JSON and in no encoding, replaced, however deep they are."""
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-8", errors="replace").decode("utf-8")
    if isinstance(value, dict):
        return {without_surrogates(key): without_surrogates(item) for key, item in value.items()}
    return [without_surrogates(item) for item in value] if isinstance(value, list) else value


def _bytes(text: str, limit: int) -> int:
    """Bytes of a text in UTF-8, counted only where they could be more than ``limit``."""
    if 4 * len(text) <= limit or text.isascii():
        return len(text)
    return len(text.encode("utf-8", errors="replace"))
