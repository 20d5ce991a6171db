"""Exact deduplication: documents with the same text."""

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from tatara.data.dedup.base import Deduplication
from tatara.data.dedup.documents import Corpus, DocumentCollector, encode
from tatara.data.dedup.grouping import Output, choose_collected
from tatara.data.dedup.index import IndexFile
from tatara.data.dedup.normal import normal_bytes
from tatara.data.dedup.records import KEYED, SECTIONS, Records, SectionWriter, node_of, record_array, section_of
from tatara.data.document import Document
from tatara.data.steps import Collector, FanOut


class KeyCollector(DocumentCollector):
    """Collects one key of 128 bits for each document."""

    def __init__(self, config: Any, directory: Path, shard: int) -> None:
        super().__init__(config, directory, shard)
        self._digests: list[bytes] = []

    @abstractmethod
    def digests(self, documents: Sequence[Document]) -> list[bytes]:
        """Each document's key, 16 bytes."""

    def take(self, documents: Sequence[Document]) -> None:
        """Collect keys of a batch."""
        self._digests += self.digests(documents)

    def write(self, directory: Path, table: Records) -> dict[str, Any]:
        """Write the keys, with the documents' ranks."""
        keys: NDArray[np.uint64] = np.frombuffer(b"".join(self._digests), "<u8").reshape(-1, 2)
        records = record_array(
            KEYED,
            high=keys[:, 0],
            low=keys[:, 1],
            primary=table["primary"],
            tie=table["tie"],
            node=node_of(self.shard, np.arange(len(table))),
            copies=table["copies"],
        )
        writer = SectionWriter(directory, "keys", SECTIONS)
        writer.write(records, section_of(records["high"]))
        return {"keys_files": writer.files, "key_bytes": records.nbytes}


class _TextCollector(KeyCollector):
    def digests(self, documents: Sequence[Document]) -> list[bytes]:
        texts = [document.text for document in documents]
        case, space = self.config.ignore_case, self.config.ignore_space
        if case or space:
            return [xxhash.xxh3_128_digest(each) for each in normal_bytes(texts, case, space)]
        return [xxhash.xxh3_128_digest(encode(text)) for text in texts]


class KeyDeduplication(Deduplication):
    """Documents with the same key are one cluster."""

    def members(self, corpus: Corpus, memory: int, fan_out: FanOut) -> tuple[Output, dict[str, Any]]:
        """Group documents by key."""
        return choose_collected(corpus, self.directory / "members", memory, fan_out), {}

    def index_files(self) -> list[IndexFile]:
        """The keys."""
        return [IndexFile("keys", KEYED, key="high", place="node")]


class ExactDedup(KeyDeduplication):
    """One document per text."""

    def collector(self, shard: int) -> Collector:
        """Hashes of texts."""
        return _TextCollector(self.config, self.directory, shard)

    def parameters(self) -> dict[str, Any]:
        """What is hashed."""
        return {"ignore_case": self.config.ignore_case, "ignore_space": self.config.ignore_space}
