"""The default corpus: what Python modules and packages say about themselves."""

import email.parser
import email.policy
from collections.abc import Iterator

from tatara.data import docstrings
from tatara.data.document import Document, Quarantined
from tatara.data.raw_file import RawFile
from tatara.data.read.config import ReadConfig
from tatara.data.read.streams import open_raw
from tatara.data.text.decoding import decode


def read_python(file: RawFile, config: ReadConfig) -> Iterator[Document | Quarantined]:
    """The docstrings of a module, and the comment it starts with."""
    with open_raw(file) as stream:
        source = stream.read()
    header = docstrings.header_comment(source)
    if header:
        yield Document(f"{file.source}::#", header, file.source)
    seen: dict[str, int] = {}
    for name, text in docstrings.docstrings(source):
        # Overloads and conditional definitions share a name.
        seen[name] = seen.get(name, 0) + 1
        suffix = f"#{seen[name]}" if seen[name] > 1 else ""
        clean = text.encode("utf-8", errors="replace").decode("utf-8")
        yield Document(f"{file.source}::{name}{suffix}", clean, file.source)


def read_topics(file: RawFile, config: ReadConfig) -> Iterator[Document | Quarantined]:
    """The chapters of the language reference that come with Python."""
    with open_raw(file) as stream:
        for key, text in docstrings.topics(stream.read()):
            yield Document(f"{file.source}::{key}", text, file.source)


def read_description(file: RawFile, config: ReadConfig) -> Iterator[Document | Quarantined]:
    """The long description of a package: the body of its METADATA (or, in old ones, a header)."""
    with open_raw(file) as stream:
        text, encoding = decode(stream.read(), config.encodings)
    message = email.parser.Parser(policy=email.policy.compat32).parsestr(text)
    body = message.get_payload()
    description = body if isinstance(body, str) and body.strip() else message.get("Description", "")
    if description.strip():
        yield Document(file.source, str(description), file.source, encoding=encoding)
