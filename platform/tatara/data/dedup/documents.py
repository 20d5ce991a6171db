"""What a step keeps of every document beside its keys: rank, id and place; and how to find it again."""

import json
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import xxhash
from numpy.typing import NDArray

from tatara.data.dedup.config import DedupConfig
from tatara.data.dedup.records import (
    EARLIER,
    Records,
    node_of,
    position_of,
    record_array,
    shard_of,
    split_evenly,
    write_atomically,
)
from tatara.data.dedup.stages import adopt
from tatara.data.document import Document
from tatara.data.steps import ShardRows
from tatara.errors import DataError

DOCUMENT = np.dtype([("primary", "<u8"), ("tie", "<u8"), ("row", "<u4"), ("copies", "<u4")])
"""A document's rank (lower is better), its row in its shard, and how many documents it stood for already."""
_LAST = (1 << 64) - 1


def encode(text: str) -> bytes:
    """UTF-8; lone surrogates keep their own bytes."""
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-8", errors="surrogatepass")


def ordered(value: float) -> int:
    """An unsigned integer of 64 bits in the order of the numbers; what is no number comes last."""
    if value != value:
        return _LAST
    bits = int(np.float64(value).view(np.uint64))
    return ~bits & _LAST if bits >> 63 else bits | (1 << 63)


def moment(value: Any) -> float:
    """A date (object, ISO 8601) or number as seconds; NaN where it is neither."""
    try:
        if isinstance(value, str):
            value = datetime.fromisoformat(value.strip())
        if isinstance(value, datetime):
            return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
        if hasattr(value, "isoformat"):
            return datetime.fromisoformat(value.isoformat()).replace(tzinfo=UTC).timestamp()
        return float(value)
    except (ValueError, TypeError, OverflowError, OSError):
        pass
    try:
        return float(value)
    except (ValueError, TypeError):
        return float("nan")


def rank(config: DedupConfig, document: Document) -> int:
    """How much a document is preferred within its cluster, lower is better; order of the corpus is decided later."""
    if config.keep == "longest":
        return _LAST - len(document.text)
    if config.keep == "shortest":
        return len(document.text)
    if config.keep == "best_score":
        score = document.scores.get(str(config.keep_by))
        return _LAST if score is None else ordered(-score)
    if config.keep in ("oldest", "newest") and config.keep_by:
        seconds = moment(document.metadata.get(config.keep_by))
        return ordered(-seconds if config.keep == "newest" else seconds)
    return 0


def by_order(config: DedupConfig) -> bool:
    """Whether the order of the corpus, not a property of the document, ranks it."""
    return config.keep == "first" or (config.keep in ("oldest", "newest") and not config.keep_by)


class DocumentCollector(ABC):
    """Collects documents of a shard; subclasses add keys in `take` and `write`."""

    def __init__(self, config: Any, directory: Path, shard: int) -> None:
        self.config = config
        self.shard = shard
        self.target = collected(directory) / f"{shard:06d}"
        self.done = self.target.exists()
        self._rows: list[int] = []
        self._ids: list[bytes] = []
        self._primary: list[int] = []
        self._copies: list[int] = []
        self._workspace: Path | None = None

    @property
    def workspace(self) -> Path:
        """Where keys are written until all are there; then it gets its name."""
        if self._workspace is None:
            self._workspace = self.target.with_name(f".{self.target.name}-{uuid4().hex}")
            self._workspace.mkdir(parents=True)
        return self._workspace

    @property
    def ids(self) -> list[bytes]:
        """Ids of the documents so far."""
        return self._ids

    def add(self, documents: Sequence[Document]) -> None:
        """Take a batch."""
        if self.done:
            return
        ranked = isinstance(self.config, DedupConfig)
        documents = self.chosen(documents)
        for document in documents:
            self._rows.append(document.row)
            self._ids.append(encode(document.id))
            self._copies.append(document.copies)
            if ranked:
                self._primary.append(rank(self.config, document))
        self.take(documents)

    def chosen(self, documents: Sequence[Document]) -> Sequence[Document]:
        """The documents that have a key."""
        return documents

    @abstractmethod
    def take(self, documents: Sequence[Document]) -> None:
        """Collect keys of a batch."""

    @abstractmethod
    def write(self, directory: Path, table: Records) -> dict[str, Any]:
        """Write the keys that have not been written yet; returns what is to be known of them."""

    def close(self) -> None:
        """Write everything; the directory appears under its name when it is whole."""
        if self.done:
            return
        temporary = self.workspace
        count = len(self._rows)
        table = record_array(
            DOCUMENT,
            primary=np.array(self._primary or [0] * count, np.uint64),
            tie=np.array([xxhash.xxh3_64_intdigest(each) for each in self._ids], np.uint64),
            row=np.array(self._rows, np.uint32),
            copies=np.array(self._copies, np.uint32),
        )
        if isinstance(self.config, DedupConfig) and by_order(self.config):
            # Position in the corpus decides, which `node` says; "newest" turns it round.
            table["tie"] = 0
            if self.config.keep == "newest":
                table["primary"] = np.uint64(_LAST) - node_of(self.shard, np.arange(count))
        figures = self.write(temporary, table)
        write_table(temporary, table, self._ids, figures)
        try:
            adopt(temporary, self.target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        self.done = True


def write_table(directory: Path, table: Records, ids: Sequence[bytes], figures: dict[str, Any]) -> None:
    """Write the table of documents, their ids and what is known of them."""
    bounds = np.zeros(len(ids) + 1, np.int64)
    np.cumsum([len(each) for each in ids], out=bounds[1:])
    write_atomically(directory / "documents", table)
    write_atomically(directory / "ids", bounds, b"".join(ids))
    known = {"documents": len(ids), "id_bytes": int(bounds[-1]), **figures}
    write_atomically(directory / "meta.json", json.dumps(known).encode())


def collected(directory: Path) -> Path:
    """Where the collectors of a step write."""
    return directory / "collected"


@dataclass(frozen=True)
class Table:
    """The collected documents of one shard.

    Attributes:
        directory: Where they are.
        gained: How many copies each row stands for by the verdicts of steps before this one in the same pass:
            ``[rows]``; None for no more than was collected.
    """

    directory: Path
    gained: NDArray[np.int64] | None = None

    @cached_property
    def meta(self) -> dict[str, Any]:
        """What was noted about the shard."""
        found: dict[str, Any] = json.loads((self.directory / "meta.json").read_text())
        return found

    def __len__(self) -> int:
        return int(self.meta["documents"])

    @cached_property
    def documents(self) -> Records:
        """Rank, row and copies of every document: ``[documents]`` of `DOCUMENT`."""
        found = np.fromfile(self.directory / "documents", DOCUMENT)
        if self.gained is not None:
            found["copies"] += self.gained[found["row"]].astype(np.uint32)
        return found

    def ids(self, positions: NDArray[np.int64]) -> list[bytes]:
        """Ids of some documents."""
        path = self.directory / "ids"
        bounds = np.memmap(path, np.int64, "r", shape=(len(self) + 1,))
        begins, ends = bounds[positions], bounds[positions + 1]
        with path.open("rb") as stream:
            found = []
            for begin, end in zip(begins.tolist(), ends.tolist(), strict=True):
                stream.seek(bounds.nbytes + begin)
                found.append(stream.read(end - begin))
        return found


def collected_tables(directory: Path, step: str, shards: Sequence[ShardRows]) -> list[Table]:
    """The tables of all shards.

    Raises:
        DataError: One of them has none.
    """
    tables = [Table(collected(directory) / f"{shard.index:06d}") for shard in shards]
    missing = [shard.index for shard, table in zip(shards, tables, strict=True) if not table.directory.exists()]
    if missing:
        raise DataError(f"{step}: no keys of shard {missing[0]} in {directory}; collect them first")
    return tables


@dataclass(frozen=True)
class Corpus:
    """All collected documents: those of this run's shards, then those of earlier runs' indexes. Small to pickle.

    Attributes:
        directory: The step's directory.
        numbers: Numbers of all shards, ascending.
        earlier: Directories of the shards from earlier runs, numbered from `EARLIER`.
        starts: The first shard of each group; a task that needs tables of documents works on one group.
        alive: Which rows of a shard are still there; may say too, by ``gained``, what copies they stand for by now.
    """

    directory: Path
    numbers: tuple[int, ...]
    earlier: tuple[Path, ...]
    starts: tuple[int, ...]
    alive: Callable[[int], NDArray[np.bool_]]

    def table(self, number: int) -> Table:
        """A shard's documents."""
        if number >= EARLIER:
            return Table(self.earlier[number - EARLIER])
        gained = getattr(self.alive, "gained", None)
        return Table(collected(self.directory) / f"{number:06d}", gained(number) if gained else None)

    @property
    def groups(self) -> int:
        """Number of groups of shards."""
        return max(len(self.starts), 1)

    def group(self, index: int) -> list[int]:
        """Numbers of a group's shards."""
        if not self.starts:
            return []
        end = self.starts[index + 1] if index + 1 < len(self.starts) else 1 << 62
        return [number for number in self.numbers if self.starts[index] <= number < end]

    def group_of(self, nodes: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Which group documents are in."""
        return np.searchsorted(np.array(self.starts, np.int64), shard_of(nodes), "right") - 1

    def living(self, number: int, table: Table | None = None) -> NDArray[np.bool_] | None:
        """Which collected documents of a shard are still there: ``[documents]``; None for all."""
        if number >= EARLIER:
            return None
        rows = self.alive(number)
        if rows.all():
            return None
        found = rows[(table or self.table(number)).documents["row"]]
        return None if found.all() else found


def group_shards(numbers: Sequence[int], sizes: Sequence[int], limit: int) -> tuple[int, ...]:
    """The first shard of each group, so that a group's tables stay below a limit of bytes."""
    return tuple(numbers[first] for first, _ in split_evenly(sizes, limit))


def by_shard(nodes: NDArray[np.uint64]) -> list[tuple[int, NDArray[np.int64], NDArray[np.int64]]]:
    """(shard, places in ``nodes``, positions within the shard) for each shard that occurs."""
    shards = shard_of(nodes)
    order = np.argsort(shards, kind="stable")
    edges = np.flatnonzero(np.diff(shards[order], prepend=-1))
    found = []
    for begin, end in zip(edges, np.append(edges[1:], len(order)), strict=True):
        places = order[begin:end]
        found.append((int(shards[places[0]]), places, position_of(nodes[places])))
    return found
