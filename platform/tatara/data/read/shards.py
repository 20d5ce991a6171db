"""Cutting a corpus into tasks; depends on the files alone, never on the cluster."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from tatara.data.raw_file import RawFile
from tatara.data.read.parquet import open_parquet
from tatara.data.read.streams import is_connection_error
from tatara.errors import StorageError


@dataclass(frozen=True)
class Shard:
    """Files, or parts of files, that one task reads and that become one output file."""

    index: int
    files: tuple[RawFile, ...]

    @property
    def key(self) -> str:
        """What the shard reads, as a hash: a finished shard is recognised by it after a restart."""
        parts = "\n".join(f"{file.source}\0{file.size}\0{file.start}\0{file.end}" for file in self.files)
        return hashlib.sha256(parts.encode()).hexdigest()[:16]


def plan_shards(files: Sequence[RawFile], shard_bytes: int) -> list[Shard]:
    """Cut a corpus into tasks of about ``shard_bytes``.

    JSONL is cut at byte positions (a record belongs to the part in which it begins), gzip web archives at byte
    positions of the compressed file (a gzip member belongs to the part in which it begins), Parquet at row groups;
    other files stay whole.
    """
    shards: list[Shard] = []
    current: list[RawFile] = []
    filled = 0
    for part in (part for file in files for part in _split(file, shard_bytes)):
        if current and filled + part.size > shard_bytes:
            shards.append(Shard(len(shards), tuple(current)))
            current, filled = [], 0
        current.append(part)
        filled += part.size
    if current:
        shards.append(Shard(len(shards), tuple(current)))
    return shards


def _split(file: RawFile, shard_bytes: int) -> Iterator[RawFile]:
    if file.size <= shard_bytes:
        yield file
    elif (file.kind, file.compression) in {("jsonl", None), ("warc", "gzip")}:
        for start in range(0, file.size, shard_bytes):
            end = min(start + shard_bytes, file.size)
            yield replace(file, size=end - start, start=start, end=end)
    elif file.kind == "parquet":
        yield from _split_parquet(file, shard_bytes)
    else:
        yield file


def _split_parquet(file: RawFile, shard_bytes: int) -> Iterator[RawFile]:
    try:
        with open_parquet(file) as parquet:
            sizes = [parquet.metadata.row_group(i).total_byte_size for i in range(parquet.metadata.num_row_groups)]
    except (OSError, ValueError) as error:
        if is_connection_error(error):
            raise StorageError(f"cannot read {file.url}: {' '.join(str(error).split())}") from None
        yield file  # what is wrong with it is found, and counted, when it is read
        return
    # Parts' sizes are shares of the file's bytes on disk, so that they add up to it.
    total = max(sum(sizes), 1)
    start = filled = before = 0
    for index, size in enumerate([*sizes, shard_bytes]):
        if filled and filled + size > shard_bytes:
            ahead = before + filled
            share = file.size * ahead // total - file.size * before // total
            yield replace(file, size=share, start=start, end=index)
            start, filled, before = index, 0, ahead
        filled += size
