"""Labelled samples for the classifiers: read, without duplicates, cut to length."""

import hashlib

from tatara.data.document import Document
from tatara.data.quality.config import TrainingConfig
from tatara.data.read.config import ReadConfig
from tatara.data.read.reader import read_file
from tatara.data.sources import corpus_files
from tatara.errors import DataError

_PIECE = 4096


def read_samples(name: str, pattern: str, config: TrainingConfig) -> dict[bytes, str]:
    """The samples of one class.

    Args:
        name: The class, for errors.
        pattern: File, directory or glob. Plain-text files are cut at paragraph ends.
        config: Which column to read, and how much.

    Returns:
        Hash to text, in the order of hashes, which is the same however the samples are spread over files.

    Raises:
        DataError: There are no such files, or too few samples in them.
    """
    reading = ReadConfig(text_column=config.text_column, document_bytes=_PIECE)
    found: dict[bytes, str] = {}
    refused = ""
    for file in corpus_files(pattern).files:
        for record in read_file(file, reading):
            if not isinstance(record, Document):
                refused = refused or f"; {record.source}: {record.reason}"
                continue
            text = record.text[: config.max_characters]
            if text.strip():
                found[hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()] = text
        if len(found) > 4 * config.max_samples:
            found = _lowest(found, config.max_samples)
    if len(found) < config.min_samples:
        raise DataError(f"samples of '{name}', {pattern}: {len(found)}, but {config.min_samples} are needed{refused}")
    return _lowest(found, config.max_samples)


def _lowest(found: dict[bytes, str], count: int) -> dict[bytes, str]:
    return {digest: found[digest] for digest in sorted(found)[:count]}
